"""The counters of a whole log in little memory: some 13 bytes for each article that it shows."""

from array import array
from collections.abc import Iterator
from itertools import groupby

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable, Impression
from genre_tf.data.counters import COUNTERS, Counters, epoch_seconds, epoch_time


class LoggedViews:
    """What the counters need of a log, in its order; gives what `impression_counters` gives.

    Args:
        table: knows every article of the log.
        earlier: what is known before the log, all of it older; None: nothing.
    """

    def __init__(self, table: ArticleTable, earlier: Counters | None = None) -> None:
        self._table, self._earlier = table, earlier or Counters()
        self._seconds = array("q")
        self._ends = array("q", [0])
        self._rows = array("i")
        self._clicked = bytearray()
        self._before = np.zeros((0, 2), np.int32)
        self._first = np.zeros(len(table), np.int64)

    def add(self, impression: Impression) -> None:
        """Takes the next impression of the log."""
        self._seconds.append(epoch_seconds(impression.time))
        self._rows.frombytes(self._table.rows(impression.candidates).tobytes())
        self._clicked.extend(impression.clicked or bytes(len(impression.candidates)))
        self._ends.append(len(self._rows))

    @property
    def seconds(self) -> npt.NDArray[np.int64]:
        """Times of the impressions since 1970, int64 [I]."""
        return np.frombuffer(self._seconds, np.int64)

    def count(self) -> Counters:
        """Goes through the log in the order of time, once all impressions are in.

        Returns:
            The counters as of the end of the log.
        """
        rows, clicked = np.frombuffer(self._rows, np.int32), np.frombuffer(self._clicked, np.uint8)
        self._before = np.zeros((len(rows), 2), np.int32)
        totals = self._known_earlier()
        for second, spans in self._in_time():
            # Impressions of one second do not know each other.
            for span in spans:
                self._before[span] = totals[rows[span]]
            for span in spans:
                # An impression shows an article once, so that no row is lost in this sum.
                totals[rows[span], 0] += clicked[span]
                totals[rows[span], 1] += 1
                self._first[rows[span]] = np.where(
                    totals[rows[span], 1] == 1, second, self._first[rows[span]]
                )
        return self._counters(totals)

    def _known_earlier(self) -> npt.NDArray[np.int32]:
        """Clicks and views by article before the log, int32 [N, 2]; notes when each was first shown."""
        totals = np.zeros((len(self._table), 2), np.int32)
        self._first = np.full(len(self._table), -1, np.int64)
        earlier = self._earlier
        for news_id in earlier.views.keys() & self._table.known_ids.keys():
            row = self._table.row(news_id)
            totals[row] = earlier.clicks.get(news_id, 0), earlier.views[news_id]
            self._first[row] = epoch_seconds(earlier.first_seen[news_id])
        return totals

    def known_before(self, number: int) -> npt.NDArray[np.float32]:
        """What was known of an impression's candidates just before it, once the log is counted.

        Args:
            number: row number of the impression.

        Returns:
            float32 [C, 3]: clicks, views, age in hours.
        """
        span = self._span(number)
        rows = np.frombuffer(self._rows, np.int32)[span]
        known = np.empty((len(rows), len(COUNTERS)), np.float32)
        known[:, :2] = self._before[span]
        # Nothing was first shown after the moment that shows it, so the log's first time is the past's too.
        known[:, 2] = (self._seconds[number] - self._first[rows]) / 3600
        return known

    def _span(self, number: int) -> slice:
        return slice(self._ends[number], self._ends[number + 1])

    def _in_time(self) -> Iterator[tuple[int, list[slice]]]:
        order = np.argsort(self.seconds, kind="stable")
        for second, numbers in groupby(order, key=lambda number: self._seconds[number]):
            yield second, [self._span(number) for number in numbers]

    def _counters(self, totals: npt.NDArray[np.int32]) -> Counters:
        counters, news_ids = self._earlier.copy(), self._table.news_ids
        for row in np.flatnonzero(totals[:, 1]).tolist():
            news_id, (clicks, views) = news_ids[row], totals[row].tolist()
            if clicks:
                counters.clicks[news_id] = clicks
            counters.views[news_id] = views
            counters.first_seen[news_id] = epoch_time(int(self._first[row]))
        if len(self._seconds):
            counters.newest = epoch_time(max(self._seconds))
        return counters
