"""The clicks of each reader and what followed them: histories of any moment. Reads logs with clicks only."""

import math
from array import array
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from genre_tf.data.counters import epoch_seconds
from genre_tf.data.faults import shown
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.catalogue import RowFaults, cell_of
from genre_tf.data.layouts.column_map import ClickColumns, ColumnMap, EventColumns
from genre_tf.data.layouts.source_files import Source
from genre_tf.data.layouts.tables import Row
from genre_tf.data.signals import KEYS

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
DAY_S = int(timedelta(days=1).total_seconds())


class Signals(NamedTuple):
    """What followed clicks: reading times, comments and shares, one entry each.

    Args:
        click: int64 [n], numbers of the clicks.
        kind: int64 [n], places in `KEYS`.
        value: float64 [n], seconds of reading, or the number of comments or shares.
        known: int64 [n], when each was over, in seconds since 1970; a history knows only what is earlier.
    """

    click: Integers
    kind: Integers
    value: Floats
    known: Integers

    @classmethod
    def of_dwell(cls, click: Integers, time: Integers, seconds: Floats) -> "Signals":
        """Reading times that begin with the click.

        Args:
            click: int64 [n], numbers of the clicks.
            time: int64 [n], of the clicks.
            seconds: float64 [n]; NaN if unknown.
        """
        told = ~np.isnan(seconds)
        known = time[told] + np.ceil(seconds[told]).astype(np.int64)
        return cls(click[told], np.full(len(known), KEYS.index("dwell")), seconds[told], known)

    @classmethod
    def joined(cls, *parts: "Signals") -> "Signals":
        """All entries of several."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class SignalTexts:
    """Signals by a key, in the form of the column of signals: `dwell=35,shares=1`; equal kinds are added up.

    Args:
        key: int64 [n], such as a number of a click.
        signals: n entries.
    """

    def __init__(self, key: Integers, signals: Signals) -> None:
        order = np.argsort(key, kind="stable")
        self._key = key[order]
        self._kind, self._value, self._known = (column[order] for column in signals[1:])

    def of(self, keys: Integers, before: int | None = None) -> list[str]:
        """The texts of some keys, empty if nothing is known; with `before`, of what was known by then."""
        begins, ends = (np.searchsorted(self._key, keys, side) for side in ("left", "right"))
        pairs = zip(begins.tolist(), ends.tolist(), strict=True)
        return [self._text(slice(*pair), before) if pair[0] < pair[1] else "" for pair in pairs]

    def _text(self, entries: slice, before: int | None) -> str:
        sums: dict[int, float] = {}
        columns = (self._kind, self._value, self._known)
        for kind, value, known in zip(*(column[entries].tolist() for column in columns), strict=True):
            if before is None or known < before:
                sums[kind] = sums.get(kind, 0.0) + value
        return ",".join(f"{KEYS[kind]}={sums[kind]:g}" for kind in sorted(sums))


class ClickLog:
    """Clicks in the order of time: each reader's first click on each article, and what followed the clicks.

    A page that is loaded again is not a new choice.

    All clicks are held in memory for sorting: about 50 bytes per click, and 32 more if it has signals.

    Args:
        users: names of the readers.
        user: int64 [n], reader of each click, as a row of `users`.
        article: int64 [n], clicked article, as a row of the catalogue.
        time: int64 [n], seconds since 1970.
        signals: what followed them; its clicks are numbered as these arrays are.
    """

    def __init__(
        self, users: list[str], user: Integers, article: Integers, time: Integers, signals: Signals
    ) -> None:
        order = np.argsort(time, kind="stable")
        self._width = int(article.max(initial=0)) + 1
        pairs = user * self._width + article
        self._of_click = SignalTexts(signals.click, signals)
        self._of_pair = SignalTexts(pairs[signals.click], signals)
        order = order[np.sort(np.unique(pairs[order], return_index=True)[1])]
        self.users, self.has_signals = users, len(signals.click) > 0
        self.user, self.article, self.time, self._number = user[order], article[order], time[order], order
        by_user = np.argsort(self.user, kind="stable")
        self._articles, self._times = self.article[by_user], self.time[by_user]
        self._begins = np.searchsorted(self.user[by_user], np.arange(len(users) + 1))

    def __len__(self) -> int:
        return len(self.time)

    def before(self, user: int, time: int, newest: int = 0) -> tuple[list[int], list[str]]:
        """A reader's history at a moment: articles clicked strictly before it, oldest first.

        Args:
            user: row of the reader.
            time: the moment.
            newest: number of clicks to keep; 0: all.

        Returns:
            Rows of the articles, and the signals of each as far as they were known before the moment.
        """
        begin, end = self._begins[user], self._begins[user + 1]
        end = begin + np.searchsorted(self._times[begin:end], time)
        articles = self._articles[max(begin, end - newest) if newest else begin : end]
        return articles.tolist(), self._of_pair.of(user * self._width + articles, time)

    def signals_of(self, click: int) -> str:
        """What followed a click."""
        return self._of_click.of(self._number[[click]])[0]

    def ever_read(self, user: int) -> set[int]:
        """All articles that a reader clicks at any time."""
        return set(self._articles[self._begins[user] : self._begins[user + 1]].tolist())


class Act(NamedTuple):
    """The cells that rows of clicks and of events have in common; None if a cell is faulty.

    Args:
        user: the reader.
        news_id: the article, which is known.
        time: seconds since 1970.
        seconds: reading time; NaN if the cell is empty.
    """

    user: str | None
    news_id: str | None
    time: int | None
    seconds: float


def read_act(
    row: Row,
    columns: ClickColumns | EventColumns,
    known: Mapping[str, int],
    time_unit: str,
    faults: RowFaults,
) -> Act:
    """Reads who did something, with which article, when, and for how long.

    Args:
        row: its cells.
        columns: which columns hold what.
        known: rows of the articles by their ids.
        time_unit: unit of times that are numbers.
        faults: list to which faults are added.
    """
    user = cell_of(row, columns.user_id, cells.one_id, faults)
    news_id = cell_of(row, columns.news_id, cells.one_id, faults)
    time = cell_of(row, columns.time, lambda value: cells.moment(value, time_unit), faults)
    dwell = cell_of(row, columns.dwell, cells.seconds, faults)
    if news_id is not None and news_id not in known:
        faults.append((columns.news_id, f"{shown(news_id)} is not among the articles; add the article"))
    if dwell is not None and not 0 <= dwell < math.inf:
        faults.append((columns.dwell, f"{dwell} is not a finite number of seconds of at least 0"))
    return Act(
        user, news_id, None if time is None else epoch_seconds(time), math.nan if dwell is None else dwell
    )


def read_clicks(source: Source, column_map: ColumnMap, known: Mapping[str, int]) -> ClickLog:
    """Reads a log of clicks.

    Args:
        source: where the files are.
        column_map: which columns of a log of clicks hold what.
        known: rows of the articles by their ids.

    Raises:
        InputError: an unusable file, or the policy stops.
    """
    if column_map.clicks is None or column_map.files is None:
        raise ValueError("this map does not describe a log of clicks")
    columns, users = column_map.clicks, dict[str, int]()
    user_of, article_of, time_of, dwell_of = array("q"), array("q"), array("q"), array("d")
    wanted = (columns.user_id, columns.news_id, columns.time, columns.dwell)
    for path, number, row in source.rows(column_map.files.clicks, wanted, columns.skip):
        faults: RowFaults = []
        act = read_act(row, columns, known, source.reading.time_unit, faults)
        if faults or act.user is None or act.news_id is None or act.time is None:
            source.reject(path, number, faults)
            continue
        user_of.append(users.setdefault(act.user, len(users)))
        article_of.append(known[act.news_id])
        time_of.append(act.time)
        dwell_of.append(act.seconds)
    user, article, time = (np.frombuffer(each, np.int64) for each in (user_of, article_of, time_of))
    signals = Signals.of_dwell(np.arange(len(time)), time, np.frombuffer(dwell_of, np.float64))
    return ClickLog(list(users), user, article, time, signals)
