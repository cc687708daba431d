"""Histories: in files of their own, one row per reader, or made of the clicks of the log."""

import math
from array import array
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from genre_tf.data.articles import Impression
from genre_tf.data.counters import epoch_seconds
from genre_tf.data.faults import shown
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.catalogue import RowFaults, cell_of
from genre_tf.data.layouts.click_log import ClickLog, Signals
from genre_tf.data.layouts.column_map import HistoryColumns
from genre_tf.data.layouts.source_files import Source
from genre_tf.data.layouts.tables import Row
from genre_tf.data.signals import KEYS, Signal


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


class PastClicks:
    """Histories made of the clicks of a log.

    Args:
        impressions: the log, of all its splits and in any order.
        newest: number of clicks to keep of a history; 0: all.
    """

    def __init__(self, impressions: Iterable[Impression], newest: int) -> None:
        self._users, self._rows, self._newest = dict[str, int](), dict[str, int](), newest
        user_of, article_of, time_of = array("q"), array("q"), array("q")
        followed = [array("d") for _ in KEYS]
        for one in impressions:
            signals = {signal.news_id: signal for signal in one.signals or ()}
            for news_id in compress(one.candidates, one.clicked or ()):
                user_of.append(self._users.setdefault(one.user_id, len(self._users)))
                article_of.append(self._rows.setdefault(news_id, len(self._rows)))
                time_of.append(epoch_seconds(one.time))
                values = signals.get(news_id, Signal(news_id))[1:]
                for column, value in zip(followed, values, strict=True):
                    column.append(math.nan if value is None else value)
        user, article, time = (np.frombuffer(each, np.int64) for each in (user_of, article_of, time_of))
        dwell, *counts = (np.frombuffer(each, np.float64) for each in followed)
        parts = [Signals.of_dwell(np.arange(len(time)), time, dwell)]
        known = time + np.ceil(np.nan_to_num(dwell)).astype(np.int64)  # the log does not say when they came
        for kind, count in enumerate(counts, start=1):
            click = np.flatnonzero(count)
            parts.append(Signals(click, np.full(len(click), kind), count[click], known[click]))
        self._log = ClickLog(list(self._users), user, article, time, Signals.joined(*parts))
        self._news_ids = list(self._rows)

    def before(self, user: str, time: datetime, known: Container[str]) -> tuple[History, int]:
        """A reader's history at a moment: articles clicked strictly before it.

        Args:
            user: the reader.
            time: the moment.
            known: ids of the articles that it may hold.

        Returns:
            The history, and the number of clicks on other articles, which are left out.
        """
        if user not in self._users:
            return History(), 0
        rows, told = self._log.before(self._users[user], epoch_seconds(time), self._newest)
        pairs = [(self._news_ids[row], values) for row, values in zip(rows, told, strict=True)]
        kept = [(news_id, values) for news_id, values in pairs if news_id in known]
        signals = " ".join(f"{news_id}:{values}" for news_id, values in kept if values)
        return History(" ".join(news_id for news_id, _ in kept), signals), len(pairs) - len(kept)


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
