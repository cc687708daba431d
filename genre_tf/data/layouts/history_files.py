"""Histories in separate files, one row per reader."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genre_tf.data.faults import shown
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.catalogue import RowFaults, cell_of
from genre_tf.data.layouts.column_map import HistoryColumns
from genre_tf.data.layouts.source_files import Source
from genre_tf.data.layouts.tables import Row


class History(NamedTuple):
    """A reader's earlier clicks, in the form of a line in MIND's format.

    Args:
        news_ids: oldest first, joined by spaces.
        signals: how long the reader read them, such as `N1:dwell=35`, joined by spaces.
    """

    news_ids: str = ""
    signals: str = ""


def read_histories(
    source: Source, patterns: Sequence[str], columns: HistoryColumns, known: Mapping[str, str], drop: bool
) -> dict[str, History]:
    """Reads histories by reader. They are held in memory: about ten bytes per click.

    Args:
        source: where the files are.
        patterns: patterns of the files.
        columns: which columns hold what.
        known: ids of the articles.
        drop: leave out unknown articles; else they are faults.

    Raises:
        InputError: an unusable file, or the policy stops.
    """
    found: dict[str, History] = {}
    for path, number, row in source.rows(patterns, (columns.user_id, columns.history, columns.dwell)):
        faults: RowFaults = []
        user = cell_of(row, columns.user_id, cells.one_id, faults)
        clicks = _clicks(row, columns, source.reading.separator, faults)
        unknown = [news_id for news_id, _ in clicks if news_id not in known]
        if user in found:
            faults.append((columns.user_id, f"{shown(user)} is also in an earlier row; keep one of them"))
        if unknown and not drop:
            faults.append(
                (columns.history, f"{shown(unknown[0])} is not among the articles; add the article")
            )
        if faults:
            source.reject(path, number, faults)
            continue
        source.dropped += len(unknown)
        clicks = [click for click in clicks if click[0] in known]
        found[user] = _joined(clicks[-columns.newest :] if columns.newest else clicks)
    return found


def dwell_text(read_seconds: float) -> str:
    """A dwell time in the form of the column of signals."""
    return f"dwell={read_seconds:g}"


def _clicks(
    row: Row, columns: HistoryColumns, separator: str, faults: RowFaults
) -> list[tuple[str, float | None]]:
    def times(value: Any) -> list[float | None]:
        return [cells.seconds(each) for each in cells.several(value, separator)]

    news_ids = cell_of(row, columns.history, lambda value: cells.ids(value, separator), faults) or []
    read = cell_of(row, columns.dwell, times, faults) or [None] * len(news_ids)
    if len(read) != len(news_ids):
        faults.append((columns.dwell, f"{len(read)} dwell times for {len(news_ids)} clicks"))
    return list(zip(news_ids, read, strict=False))


def _joined(clicks: Sequence[tuple[str, float | None]]) -> History:
    told = {news_id: read for news_id, read in clicks if read is not None}
    signals = " ".join(f"{news_id}:{dwell_text(read)}" for news_id, read in told.items())
    return History(" ".join(news_id for news_id, _ in clicks), signals)
