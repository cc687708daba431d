"""The counters of a log just before any moment: how often and how recently articles were shown and clicked.

One process and Beam's workers count in the same steps, so that both get the same numbers to the last bit: the
events of an hour are summed as integers, so their order does not matter, and the sums of the hours are added
one by one, each to what is left of those before. No step subtracts large sums, so no digits are lost.
"""

import numpy as np
import numpy.typing as npt

from genre_tf.data.decay import (
    COUNTERS,
    COUNTS,
    HALF_LIVES_HOURS,
    HOUR_SECONDS,
    UNKNOWN_TIME,
    CounterState,
    Floats,
    Ints,
    age_seconds,
    counter_columns,
    earliest,
    halved,
    remaining,
)

__all__ = ["UNKNOWN_TIME", "WEIGHTS", "CounterState", "ViewLog", "carried", "from_units"]

_UNIT = 2.0**-36  # unit of weights: an int64 holds 67 million views of an article in one hour
_QUERIES_TOGETHER = 1 << 18  # so that what `before` needs besides its answer stays small

WEIGHTS: Ints = np.rint(1 / remaining(np.arange(HOUR_SECONDS)) / _UNIT).astype(np.int64)
"""Weight of an event in each second of an hour, as of the beginning of the hour: int64 [3600, 3], in units.

An event in the first second weighs one; later ones weigh more, as they decay less until the hour ends.
"""


def from_units(sums: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Sums of `WEIGHTS` as numbers of events; float32 everywhere, so that all users round the same way."""
    return (np.asarray(sums, np.int64) * _UNIT).astype(np.float32)


def carried(totals: npt.ArrayLike, hours: Ints, firsts: Ints, known: npt.ArrayLike) -> Floats:
    """Decayed sums at the beginning of each hour, of all events before it.

    Args:
        totals: [H, 6], halved clicks and views that each hour of each article adds, as of its beginning.
        hours: int64 [H], when each began, in seconds; hours of an article are adjacent, oldest first.
        firsts: int64 [A], increasing from 0: the place of each article's first hour.
        known: [A, 6], decayed sums of earlier logs at the beginning of each article's first hour.

    Returns:
        float64 [H, 6].
    """
    totals = np.asarray(totals, np.float64)
    gaps = np.diff(hours, prepend=0)
    gaps[firsts] = 0
    left = np.tile(remaining(gaps), 2)  # [hours, 6]
    kept = np.empty(totals.shape)
    kept[firsts] = known
    lengths = np.diff(firsts, append=len(hours))
    longest_first = np.argsort(-lengths, kind="stable")
    places, lengths = firsts[longest_first], lengths[longest_first]
    shortness = -lengths
    for hour in range(1, lengths[0] if len(lengths) else 0):
        places = places[: np.searchsorted(shortness, -hour)] + 1  # of the articles with so many hours
        kept[places] = (kept[places - 1] + totals[places - 1]) * left[places]
    return kept


class ViewLog:
    """Views and clicks of a log, and the counters of any article just before any moment.

    Takes about 24 bytes per view, 24 per click, and 100 for each hour in which an article was shown.

    >>> rows, seconds = np.array([1, 1, 2], np.int32), np.array([0, 7200, 7200])
    >>> log = ViewLog(3, rows, seconds, clicked=np.array([True, False, True]))
    >>> log.before([1, 2], 7200)[0, :4].tolist()  # clicks, views, age, clicks halved each hour
    [1.0, 1.0, 2.0, 0.25]

    Args:
        articles: N, with the padding article in row 0, for which nothing is counted.
        rows: int32 [E], the article of each view, in any order.
        seconds: int64 [E], when, since 1970.
        clicked: bool or uint8 [E], whether it was clicked.
        earlier: earlier state of the N articles, with only older events; None: empty.
        published: int64 [N], seconds since 1970, when each article was published; `UNKNOWN_TIME` if unknown.
    """

    def __init__(
        self,
        articles: int,
        rows: npt.NDArray[np.int32],
        seconds: Ints,
        clicked: npt.ArrayLike,
        earlier: CounterState | None = None,
        published: Ints | None = None,
    ) -> None:
        self._origin, hours = _span(seconds)
        self._seconds_long = hours * HOUR_SECONDS
        nothing = CounterState(np.zeros((articles, len(COUNTS))), np.full(articles, UNKNOWN_TIME))
        known = nothing if earlier is None else earlier
        self._base = known.counts.copy()
        self._base[0] = 0
        self._base_moment = self._origin if known.seconds is None else known.seconds
        self._newest = known.seconds if not len(seconds) else int(seconds.max())
        is_click = self._sort(rows, seconds, clicked)
        self._click_keys = self._keys[is_click]
        ends = np.arange(articles + 1) * self._seconds_long
        self._starts, self._click_starts = (
            np.maximum(np.searchsorted(keys, ends), 1) for keys in (self._keys, self._click_keys)
        )
        self._sum_hours(is_click)
        unknown = np.full(articles, UNKNOWN_TIME)
        self._first = earliest(known.first, self._first_shown(), unknown if published is None else published)
        self._first[0] = UNKNOWN_TIME

    def before(self, rows: npt.ArrayLike, seconds: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Counters of articles strictly before a moment; events in that second are not counted.

        Args:
            rows: int [...].
            seconds: int64, of a shape that broadcasts with `rows`; later than `earlier`.

        Returns:
            float32 [..., 9], in the order of `COUNTERS`; zeros for row 0.
        """
        rows, seconds = np.broadcast_arrays(np.asarray(rows, np.int64), np.asarray(seconds, np.int64))
        shape, rows, seconds = rows.shape, rows.ravel(), seconds.ravel()
        known = np.empty((len(rows), len(COUNTERS)), np.float32)
        for start in range(0, len(rows), _QUERIES_TOGETHER):
            some = slice(start, start + _QUERIES_TOGETHER)
            known[some] = self._before(rows[some], seconds[some])
        return known.reshape(*shape, len(COUNTERS))

    def state(self) -> CounterState:
        """The state of the N articles after the whole log, as of its newest event."""
        counts = self._base.copy()  # [articles, 8]
        if self._newest is None:
            return CounterState(counts, self._first.copy())
        counts[:, 0] += np.diff(self._click_starts)
        counts[:, 1] += np.diff(self._starts)
        counts[:, 2:] = halved(counts[:, 2:], self._newest - self._base_moment)
        shown = np.flatnonzero(np.diff(self._starts))
        last = self._hour_of[self._starts[shown + 1] - 1]
        in_all = self._carried[last] + self._totals[last]
        counts[shown, 2:] = halved(in_all, self._newest - self._hours[last])
        return CounterState(counts, self._first.copy(), self._newest)

    def _sort(
        self, rows: npt.NDArray[np.int32], seconds: Ints, clicked: npt.ArrayLike
    ) -> npt.NDArray[np.bool_]:
        """Sorts the events by article, then time; returns which are clicks."""
        keys = rows.astype(np.int64) * self._seconds_long + (seconds - self._origin)
        order = np.argsort(keys)[np.count_nonzero(rows == 0) :]
        # A first event that counts nothing, of the padding article, so that every query has one before it.
        self._keys = np.concatenate([np.zeros(1, np.int64), keys[order]])
        return np.concatenate([[True], np.asarray(clicked, bool)[order]])

    def _sum_hours(self, is_click: npt.NDArray[np.bool_]) -> None:
        """Sums within each hour of an article, then along its hours."""
        hour_keys = self._keys // HOUR_SECONDS
        begins = np.flatnonzero(np.diff(hour_keys, prepend=-1))
        self._hour_of = np.repeat(
            np.arange(len(begins), dtype=np.int32), np.diff(begins, append=len(hour_keys))
        )
        rows, hours = np.divmod(hour_keys[begins], self._seconds_long // HOUR_SECONDS)
        self._hours = self._origin + hours * HOUR_SECONDS
        self._click_hour_of = self._hour_of[is_click]
        self._totals = np.zeros((len(begins), 6))  # [hours, 6]
        clicks, views = self._totals[:, :3], self._totals[:, 3:]
        self._clicks_within = _sum_within(self._click_keys, self._click_hour_of, clicks)
        self._views_within = _sum_within(self._keys, self._hour_of, views)
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))
        since = self._hours[firsts] - self._base_moment
        known = halved(self._base[rows[firsts], 2:], since)
        self._carried = carried(self._totals, self._hours, firsts, known)

    def _first_shown(self) -> Ints:
        first = np.full(len(self._base), UNKNOWN_TIME)
        shown = np.flatnonzero(np.diff(self._starts))
        first[shown] = self._origin + self._keys[self._starts[shown]] % self._seconds_long
        return first

    def _before(self, rows: Ints, seconds: Ints) -> Floats:
        """As `before`, for [Q] queries: float64 [Q, 9]."""
        keys = rows * self._seconds_long + np.clip(seconds - self._origin, 0, self._seconds_long)
        ends, click_ends = (np.searchsorted(each, keys) for each in (self._keys, self._click_keys))
        views, clicks = ends - self._starts[rows], click_ends - self._click_starts[rows]
        counts = self._base[rows]  # [queries, 8]
        counts[:, 0] += clicks
        counts[:, 1] += views
        last, last_click = ends - 1, click_ends - 1
        hour = self._hour_of[last]
        in_all = self._carried[hour]  # [queries, 6]
        in_all[:, 3:] += self._views_within[last]
        # The last click may be in an earlier hour; then it is carried over.
        of_hour = (clicks > 0) & (self._click_hour_of[last_click] == hour)
        in_all[:, :3] += np.where(of_hour[:, None], self._clicks_within[last_click], 0)
        counts[:, 2:] = np.where(views[:, None] > 0, in_all, counts[:, 2:])
        since = seconds - np.where(views > 0, self._hours[hour], self._base_moment)
        columns = counter_columns(counts, since, age_seconds(self._first[rows], seconds))
        columns[rows == 0] = 0
        return columns


def _span(seconds: Ints) -> tuple[int, int]:
    """The beginning of a log's first hour, and its number of hours up to its last."""
    if not len(seconds):
        return 0, 1
    first, last = (int(each) // HOUR_SECONDS for each in (seconds.min(), seconds.max()))
    return first * HOUR_SECONDS, last - first + 1


def _sum_within(keys: Ints, hour_of: npt.NDArray[np.int32], totals: Floats) -> npt.NDArray[np.float32]:
    """Sum of an hour's events up to each of them, as of the beginning of the hour: float32 [E, 3].

    The sum of all events of each hour goes into `totals`, [hours, 3].
    """
    seconds = keys % HOUR_SECONDS
    begins = np.flatnonzero(np.diff(hour_of, prepend=-1))
    lengths = np.diff(begins, append=len(keys))
    lasts = begins + lengths - 1
    sums = np.empty((len(keys), len(HALF_LIVES_HOURS)), np.float32)
    for column in range(len(HALF_LIVES_HOURS)):
        weight_of = WEIGHTS[seconds, column]
        # May overflow int64 and wrap around: the differences are right all the same.
        total = np.cumsum(weight_of)
        before = total[begins] - weight_of[begins]
        sums[:, column] = from_units(total - np.repeat(before, lengths))
        totals[hour_of[begins], column] = from_units(total[lasts] - before)
    return sums
