"""Live popularity: clicks, views and age of every article, from the past only.

Counters that look into the future add 4 points of AUC in evaluation, which no live system can reach.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from datetime import datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article, ArticleTable, Impression
from genre_tf.data.columns import ImpressionColumns
from genre_tf.data.log_counters import (
    COUNTERS,
    COUNTS,
    UNKNOWN_TIME,
    CounterState,
    Hours,
    HourSums,
    LogCounters,
    age_seconds,
    counter_columns,
    earliest,
    halved,
)
from genre_tf.data.mind import epoch_seconds, epoch_time
from genre_tf.errors import InputError

__all__ = ["COUNTERS", "Counters", "count_log", "epoch_seconds", "epoch_time"]

_FORMAT = 2
_COUNTED_TOGETHER = 1024  # impressions: one by one takes ten times as long


class Counters:
    """Counts clicks and views of articles, and remembers when each was published or first shown.

    An impression without labels adds views only.

    >>> counters = Counters()
    >>> counters.observe(Impression("1", "U1", datetime(2025, 3, 3, 8), (), ("N1", "N2"), (True, False)))
    >>> counters.features(["N1", "N2", "N3"], datetime(2025, 3, 3, 9))[:, :4].tolist()
    [[1.0, 1.0, 1.0, 0.5], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self) -> None:
        self.newest: datetime | None = None
        # An article's counts are as of its newest event; row 0 stands for all unknown articles.
        self._row_of: dict[str, int] = {}
        self._counts = np.zeros((1, len(COUNTS)))  # [rows, 8]
        self._counted_at = np.zeros(1, np.int64)
        self._first = np.full(1, UNKNOWN_TIME)
        self._waiting: list[Impression] = []

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Counters):
            return NotImplemented
        pairs = zip(self._arrays().values(), other._arrays().values(), strict=True)
        return all(np.array_equal(*pair) for pair in pairs)

    __hash__ = None  # type: ignore[assignment]

    @property
    def clicks(self) -> dict[str, int]:
        """The clicks of every article that was clicked, by its id."""
        return self._whole("clicks")

    @property
    def views(self) -> dict[str, int]:
        """The views of every article that was shown, by its id."""
        return self._whole("views")

    def copy(self) -> "Counters":
        """Independent counters of the same state."""
        self._count_waiting()
        return deepcopy(self)

    def publish(self, articles: Iterable[Article]) -> None:
        """Takes in publishing times: an article's age counts from its publication or an earlier view."""
        times = {one.news_id: epoch_seconds(one.published) for one in articles if one.published is not None}
        rows = self._rows(list(times))
        self._first[rows] = earliest(self._first[rows], np.fromiter(times.values(), np.int64, len(times)))

    def observe(self, impression: Impression) -> None:
        """Counts the views and clicks of an impression, not necessarily newer than those before."""
        self.newest = impression.time if self.newest is None else max(impression.time, self.newest)
        self._waiting.append(impression)
        if len(self._waiting) >= _COUNTED_TOGETHER:
            self._count_waiting()

    def features(self, news_ids: Sequence[str], time: datetime) -> npt.NDArray[np.float32]:
        """Counters of articles at a moment.

        Args:
            news_ids: C article ids.
            time: the moment; must be later than everything observed.

        Returns:
            float32 [C, 9], in the order of `COUNTERS`; zeros for an article never shown nor published.

        Raises:
            InputError: something at or after `time` was observed: the counters would look into the future.
        """
        self.require_before(time)
        rows, seconds = self._known_rows(news_ids), epoch_seconds(time)
        ages = age_seconds(self._first[rows], seconds)
        return counter_columns(self._counts[rows], seconds - self._counted_at[rows], ages).astype(np.float32)

    def require_before(self, time: datetime) -> None:
        """Raises an `InputError` if something at or after a moment was observed."""
        if self.newest is not None and time <= self.newest:
            raise InputError(
                f"the counters already include events at {self.newest} and cannot be used for {time}: they "
                "would look into the future. Give logs in the order of time, without overlap"
            )

    def state(self, news_ids: Sequence[str]) -> CounterState:
        """The state of N articles, known or not, as of the newest impression."""
        rows = self._known_rows(news_ids)
        counts = self._counts[rows]
        if self.newest is None:
            return CounterState(counts, self._first[rows])
        newest = epoch_seconds(self.newest)
        counts[:, 2:] = halved(counts[:, 2:], newest - self._counted_at[rows])
        return CounterState(counts, self._first[rows], newest)

    def replace(self, news_ids: Sequence[str], state: CounterState) -> None:
        """Replaces the state of N articles, each named once, by a later one."""
        self._count_waiting()
        known = (state.first != UNKNOWN_TIME).tolist()
        rows = self._rows([news_id for news_id, one in zip(news_ids, known, strict=True) if one])
        self._counts[rows], self._first[rows] = state.counts[known], state.first[known]
        if state.seconds is not None:
            self._counted_at[rows] = state.seconds
            self.newest = epoch_time(state.seconds)

    def save(self, file: Path) -> None:
        """Writes the counters as `.npz` without pickles; equal counters give equal bytes."""
        arrays: dict[str, Any] = {"format": np.int64(_FORMAT), **self._arrays()}
        np.savez(file, **arrays)

    @classmethod
    def load(cls, file: Path) -> "Counters":
        """Reads what `save` wrote.

        Raises:
            InputError: the file is missing, or holds no counters or those of another version.
        """
        counters = cls()
        try:
            # Opened here: NumPy leaves the file open if it is not an archive.
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                news_ids, newest = arrays["news_ids"].tolist(), arrays["newest_seconds"].tolist()
                written_as = int(arrays["format"]) if "format" in arrays else 1
                if written_as == _FORMAT:
                    state = CounterState(arrays["counts"], arrays["first_seconds"], *newest)
                    counters.replace(news_ids, state)
        except (OSError, ValueError, KeyError, IndexError, EOFError, TypeError, BadZipFile) as error:
            raise InputError(f"{file} holds no counters ({error}); run `genre prepare` again") from None
        if written_as != _FORMAT:
            raise InputError(f"{file} holds the counters of another version; run `genre prepare` again")
        return counters

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        self._count_waiting()
        news_ids = sorted(self._row_of)
        state = self.state(news_ids)
        return {
            "news_ids": np.asarray(news_ids, np.str_),
            "counts": state.counts,
            "first_seconds": state.first,
            "newest_seconds": np.asarray([] if state.seconds is None else [state.seconds], np.int64),
        }

    def _count_waiting(self) -> None:
        """Counts what was observed since the last time."""
        impressions, self._waiting = self._waiting, []
        if not impressions:
            return
        sizes = [len(impression.candidates) for impression in impressions]
        times = np.array([epoch_seconds(impression.time) for impression in impressions], np.int64)
        seconds = np.repeat(times, sizes)
        marks = (one.clicked or repeat(False, len(one.candidates)) for one in impressions)
        clicked = np.fromiter(chain.from_iterable(marks), bool, len(seconds))
        row_of: dict[str, int] = {"": 0}
        shown = chain.from_iterable(impression.candidates for impression in impressions)
        rows = np.array([row_of.setdefault(news_id, len(row_of)) for news_id in shown], np.int32)
        news_ids = list(row_of)
        hours = Hours(HourSums.of(rows, seconds, clicked), len(news_ids), self.state(news_ids), None)
        self.replace(news_ids, hours.state())

    def _whole(self, name: str) -> dict[str, int]:
        self._count_waiting()
        column = self._counts[:, COUNTS.index(name)].astype(np.int64).tolist()
        return {news_id: column[row] for news_id, row in self._row_of.items() if column[row]}

    def _known_rows(self, news_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        self._count_waiting()
        return np.fromiter(map(self._row_of.get, news_ids, repeat(0)), np.int64, len(news_ids))

    def _rows(self, news_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of articles, int64 [n]; new ones for those not known yet."""
        row_of = self._row_of
        rows = [row_of.setdefault(news_id, len(row_of) + 1) for news_id in news_ids]
        if len(row_of) >= len(self._first):
            more = len(row_of) + 1  # at least doubled, so that growing costs little
            self._counts = np.pad(self._counts, ((0, more), (0, 0)))
            self._counted_at = np.pad(self._counted_at, (0, more))
            self._first = np.pad(self._first, (0, more), constant_values=UNKNOWN_TIME)
        return np.asarray(rows, np.int64)


def count_log(columns: ImpressionColumns, table: ArticleTable, counters: Counters) -> None:
    """Fill in the counters of a log's candidates just before each impression, strictly from the past.

    Impressions of the same time do not count for each other.

    Args:
        columns: a log in any order, in memory or in writable files.
        table: the articles that it names, with their publishing times.
        counters: the counters before the log; afterwards they include the whole log.

    Raises:
        InputError: the counters include events that are not earlier than the log.
    """
    if len(columns):
        counters.require_before(epoch_time(int(columns.seconds.min())))
    log = LogCounters(columns, len(table), counters.state(table.news_ids), table.published)
    for numbers, known in log.known():
        columns.fill_counters(numbers, known)
    counters.replace(table.news_ids, log.hours.state())
