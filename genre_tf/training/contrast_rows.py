"""Rows of a batch that come a second time, before another reader, for the interest-contrastive loss."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ORDINARY, FILLER = -1, -2
"""Of rows that come a second time `contrast_of` says which row; of others one of these."""

Rows = npt.NDArray[np.int64]


class Second(NamedTuple):
    """A row that comes a second time; both are places in the batch.

    Args:
        place: of the row.
        reader: of the row whose reader it is given.
    """

    place: int
    reader: int


class PartRows(NamedTuple):
    """The rows of one replica.

    Args:
        rows: int64 [n], whose target and source.
        readers: int64 [n], whose history and vector.
        contrast_of: int32 [n]; see `TextRows.batches`.
    """

    rows: Rows
    readers: Rows
    contrast_of: npt.NDArray[np.int32]


def second_rows(eligible: npt.NDArray[np.bool_], share: float, random: np.random.Generator) -> list[Second]:
    """Draws rows and other readers for them.

    Args:
        eligible: bool [batch], titles with a reader.
        share: of the batch's rows, met on average.
        random: draws.

    Returns:
        None where there is no other reader.
    """
    places = np.flatnonzero(eligible)
    count = min(int(share * len(eligible) + random.random()), len(places))
    if len(places) < 2 or not count:
        return []
    chosen = random.permutation(len(places))[:count]
    shift = random.integers(1, len(places), count)
    readers = places[(chosen + shift) % len(places)]
    return [Second(int(place), int(reader)) for place, reader in zip(places[chosen], readers, strict=True)]


def rows_of_part(batch: Rows, seconds: list[Second], part: int, parts: int, room: int | None) -> PartRows:
    """What one of several replicas gets: every `parts`-th row, and those of them that come a second time.

    Args:
        batch: int64 [batch], row numbers.
        seconds: of the whole batch.
        part: number of the replica.
        parts: how many there are.
        room: so many second rows, filled up with a repeated row; None: as many as there are.
    """
    own = np.arange(part, len(batch), parts)
    mine = [second for second in seconds if second.place % parts == part][:room]
    fillers = [part] * (room - len(mine)) if room else []
    rows = [*own, *(second.place for second in mine), *fillers]
    readers = [*own, *(second.reader for second in mine), *fillers]
    firsts = [second.place // parts for second in mine]
    contrast_of = [*[ORDINARY] * len(own), *firsts, *[FILLER] * len(fillers)]
    return PartRows(
        batch[np.asarray(rows, np.int64)],
        batch[np.asarray(readers, np.int64)],
        np.asarray(contrast_of, np.int32),
    )
