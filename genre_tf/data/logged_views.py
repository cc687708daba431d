"""The counters of a whole log in little memory: about 30 bytes for each view."""

from array import array

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable, Impression
from genre_tf.data.counters import COUNTERS, Counters, epoch_seconds
from genre_tf.data.view_log import ViewLog

_BLOCK_IMPRESSIONS = 4096
"""Impressions whose counters are looked up together: one by one takes many times as long."""


class LoggedViews:
    """Collects a log's views in order and computes counters from them, equal to `impression_counters`.

    Args:
        table: every article of the log, with its publishing time if it is known.
        earlier: state before the log, with only older events; None: empty.
    """

    def __init__(self, table: ArticleTable, earlier: Counters | None = None) -> None:
        self._table, self._earlier = table, earlier or Counters()
        self._seconds = array("q")
        self._ends = array("q", [0])
        self._rows = array("i")
        self._clicked = bytearray()
        self._log: ViewLog | None = None
        self._block, self._known = -1, np.zeros((0, len(COUNTERS)), np.float32)

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
        """Counts the log, once all impressions are in.

        Returns:
            The counters as of the end of the log.
        """
        table, earlier = self._table, self._earlier
        rows, clicked = np.frombuffer(self._rows, np.int32), np.frombuffer(self._clicked, np.uint8)
        known = earlier.state(table.news_ids)
        self._log = ViewLog(
            len(table), rows, self._seconds_of(0, len(self._seconds)), clicked, known, table.published
        )
        self._block = -1
        counters = earlier.copy()
        counters.replace(table.news_ids, self._log.state())
        return counters

    def known_before(self, number: int) -> npt.NDArray[np.float32]:
        """Counters of an impression's candidates just before it; call `count` first.

        Args:
            number: row number of the impression; quickest in the order of the log.

        Returns:
            float32 [C, 9], in the order of `COUNTERS`.
        """
        if self._log is None:
            raise ValueError("count() comes before known_before()")
        block = number // _BLOCK_IMPRESSIONS
        begins = block * _BLOCK_IMPRESSIONS
        if block != self._block:
            stop = min(begins + _BLOCK_IMPRESSIONS, len(self._seconds))
            rows = np.frombuffer(self._rows, np.int32)[self._ends[begins] : self._ends[stop]]
            self._block, self._known = block, self._log.before(rows, self._seconds_of(begins, stop))
        start, stop = (self._ends[each] - self._ends[begins] for each in (number, number + 1))
        return self._known[start:stop]

    def _seconds_of(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The time of every view of some impressions."""
        return np.repeat(self.seconds[start:stop], np.diff(self._ends[start : stop + 1]))
