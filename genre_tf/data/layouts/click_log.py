"""A log with clicks only, and the clicks of each reader."""

from array import array
from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from genre_tf.data.counters import epoch_seconds
from genre_tf.data.faults import shown
from genre_tf.data.layouts import cells
from genre_tf.data.layouts.catalogue import RowFaults, cell_of
from genre_tf.data.layouts.column_map import ColumnMap
from genre_tf.data.layouts.source_files import Source

Integers = npt.NDArray[np.int64]
DAY_S = int(timedelta(days=1).total_seconds())


class ClickLog:
    """Clicks in the order of time: each reader's first click on each article.

    A page that is loaded again is not a new choice.

    All clicks are held in memory for sorting: 28 bytes per click.

    Args:
        users: names of the readers.
        user: reader of each click, as a row of `users`.
        article: clicked article, as a row of the catalogue.
        time: seconds since 1970.
        dwell: reading time of each click in seconds; NaN if unknown.
    """

    def __init__(
        self,
        users: list[str],
        user: Integers,
        article: Integers,
        time: Integers,
        dwell: npt.NDArray[np.float64],
    ) -> None:
        order = np.argsort(time, kind="stable")
        pairs = user[order] * (int(article.max(initial=0)) + 1) + article[order]
        order = order[np.sort(np.unique(pairs, return_index=True)[1])]
        self.users = users
        self.user, self.article, self.time, self.dwell = (
            user[order],
            article[order],
            time[order],
            dwell[order],
        )
        self._by_user = np.argsort(self.user, kind="stable")
        self._place = np.empty_like(self._by_user)
        self._place[self._by_user] = np.arange(len(order))
        self._begins = np.searchsorted(self.user[self._by_user], np.arange(len(users) + 1))

    def __len__(self) -> int:
        return len(self.time)

    def before(self, click: int) -> Integers:
        """The reader's earlier clicks, oldest first."""
        return self._by_user[self._begins[self.user[click]] : self._place[click]]

    def ever_read(self, click: int) -> set[int]:
        """All articles that the reader of this click clicks at any time."""
        user = self.user[click]
        return set(self.article[self._by_user[self._begins[user] : self._begins[user + 1]]].tolist())


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
        user = cell_of(row, columns.user_id, cells.one_id, faults)
        news_id = cell_of(row, columns.news_id, cells.one_id, faults)
        unit = source.reading.time_unit
        time = cell_of(row, columns.time, lambda value: cells.moment(value, unit), faults)  # noqa: B023
        dwell = cell_of(row, columns.dwell, cells.seconds, faults)
        if news_id is not None and news_id not in known:
            faults.append((columns.news_id, f"{shown(news_id)} is not among the articles; add the article"))
        if dwell is not None and not 0 <= dwell < float("inf"):
            faults.append((columns.dwell, f"{dwell} is not a finite number of seconds of at least 0"))
        if faults or time is None:
            source.reject(path, number, faults)
            continue
        user_of.append(users.setdefault(user, len(users)))
        article_of.append(known[news_id])
        time_of.append(epoch_seconds(time))
        dwell_of.append(float("nan") if dwell is None else dwell)
    user_rows, article_rows, times = (
        np.frombuffer(each, np.int64) for each in (user_of, article_of, time_of)
    )
    return ClickLog(list(users), user_rows, article_rows, times, np.frombuffer(dwell_of, np.float64))
