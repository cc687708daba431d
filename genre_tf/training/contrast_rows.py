"""Rows that appear twice in a batch, the second time with another reader: the interest-contrastive loss."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ORDINARY, FILLER = -1, -2
"""Values of `contrast_of` for rows that are not a second copy; for a second copy it names the first row."""

Rows = npt.NDArray[np.int64]


class Second(NamedTuple):
    """A second copy of a row; both fields are positions in the batch.

    Args:
        place: position of the row.
        reader: position of the row whose reader it gets.
    """

    place: int
    reader: int


class PartRows(NamedTuple):
    """The rows of one replica.

    Args:
        rows: int64 [n], the rows that give target and source.
        readers: int64 [n], the rows that give history and vector.
        contrast_of: int32 [n]; see `TextRows.batches`.
    """

    rows: Rows
    readers: Rows
    contrast_of: npt.NDArray[np.int32]


def second_rows(eligible: npt.NDArray[np.bool_], share: float, random: np.random.Generator) -> list[Second]:
    """Draw rows to copy, and other readers for them.

    Args:
        eligible: bool [batch], rows with a title and a reader.
        share: share of the batch's rows, on average.
        random: source of random numbers.

    Returns:
        None if there is no other reader.
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
    """The rows of one replica: every `parts`-th row, and the second copies of those rows.

    Args:
        batch: int64 [batch], row numbers.
        seconds: second copies of the whole batch.
        part: number of the replica.
        parts: number of replicas.
        room: fixed number of second copies, padded with a repeated row; None: as many as there are.
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
