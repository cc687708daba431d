"""The counters of a log just before any moment: how often and how recently articles were shown and clicked.

The weight of a click or view halves with every half-life. Everything counts in the same three steps, so that
one process and Beam's workers get the same numbers to the last bit: the events of each article and hour are
summed as whole numbers, so their order does not matter (`HourSums`); the sums of the hours are added one by
one, each to what is left of those before (`Hours`); and within an hour its own events are looked up
(`Events`). No step subtracts large sums, so no digits are lost. Only the last step needs single events, and
only those of its hour, so a log of any size takes little memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from genre_tf.contract import COUNTERS
from genre_tf.data.articles import PUBLISHED_UNKNOWN
from genre_tf.data.columns import ImpressionColumns, ImpressionExample, Rows

HALF_LIVES_HOURS = (1, 6, 24)

COUNTS = tuple(name for name in COUNTERS if name != "age_hours")
"""The counters that events add to, in the order of `CounterState.counts`: two plain and six halved ones."""

UNKNOWN_TIME = PUBLISHED_UNKNOWN
"""Marks an unknown time: the smallest int64."""

HOUR_SECONDS = 3600

_HALF_LIVES_SECONDS = HOUR_SECONDS * np.array(HALF_LIVES_HOURS, np.float64)
_VIEWS, _AGE_HOURS = COUNTERS.index("views"), COUNTERS.index("age_hours")
_NEVER = 1 << 62  # later than any time, and small enough to subtract

_UNIT = 2.0**-36  # unit of weights: an int64 holds 67 million views of an article in one hour
_TOGETHER = 1 << 18  # events or queries at a time, so that what they need besides stays small
_GROUP_VIEWS = 1 << 21  # views of the hours whose events are looked up together
_GROUPS = 4  # such groups in memory, 100 MB each at most; fewer if single hours have more views

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CounterState:
    """State of N articles at a moment."""

    counts: Floats  # float64 [N, 8]: clicks, views, the halved clicks, the halved views
    # int64 [N], seconds since 1970: publication of each article, or its first view if that was earlier or no
    # publication is known; `UNKNOWN_TIME` for an article with neither
    first: Ints
    seconds: int | None = None  # the moment: that of the newest event; None if nothing has happened yet


def _remaining(seconds: npt.ArrayLike) -> Floats:
    """The part of a click or view that is left after some seconds [...], for each half-life: [..., 3]."""
    return np.exp2(-np.asarray(seconds, np.float64)[..., None] / _HALF_LIVES_SECONDS)


def halved(counts: npt.ArrayLike, seconds: npt.ArrayLike) -> Floats:
    """Halved clicks and views [..., 6] some seconds [...] later."""
    return np.asarray(counts, np.float64) * np.tile(_remaining(seconds), 2)


def counter_columns(counts: npt.ArrayLike, seconds: npt.ArrayLike, ages: npt.ArrayLike) -> Floats:
    """The counters of some articles, float64 [..., 9], some time after they were counted.

    Args:
        counts: [..., 8], as in `CounterState`.
        seconds: [...], since the counts were taken; negative values count as 0.
        ages: [...], from `age_seconds`.
    """
    counts = np.asarray(counts, np.float64)
    columns = np.empty((*counts.shape[:-1], len(COUNTERS)))
    columns[..., :2] = counts[..., :2]
    columns[..., 2] = np.asarray(ages) / HOUR_SECONDS
    columns[..., 3:] = halved(counts[..., 2:], np.maximum(seconds, 0))
    return columns


def age_seconds(first: Ints, seconds: npt.ArrayLike) -> Ints:
    """Age of articles at a moment in seconds: int64 [...]; 0 if `first` is unknown or later."""
    never = np.where(first == UNKNOWN_TIME, _NEVER, first)
    return np.maximum(np.asarray(seconds, np.int64) - never, 0)


def earliest(*times: Ints) -> Ints:
    """The earliest known of several times: int64 [N] each; `UNKNOWN_TIME` if none is known."""
    first = np.minimum.reduce([np.where(each == UNKNOWN_TIME, _NEVER, each) for each in times])
    return np.where(first == _NEVER, UNKNOWN_TIME, first)


def merged(
    before: npt.NDArray[np.float32], hours: float, log: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Earlier counters and those of a later log, added up.

    Args:
        before: float32 [N, 9]; the age of an article under embargo may be negative.
        hours: hours between the times of `before` and `log`.
        log: float32 [N, 9], of the log alone.

    Returns:
        float32 [N, 9], as of the moment of `log`; the age comes from `before` if it has one.
    """
    has_age = (before[:, _VIEWS] > 0) | (before[:, _AGE_HOURS] != 0)
    both = before.astype(np.float64)
    both[:, _AGE_HOURS + 1 :] = halved(both[:, _AGE_HOURS + 1 :], hours * HOUR_SECONDS)
    ages = np.where(has_age, both[:, _AGE_HOURS] + hours, log[:, _AGE_HOURS])
    both += log
    both[:, _AGE_HOURS] = ages
    return both.astype(np.float32)


# Weight of an event in each second of an hour, as of the beginning of the hour: int64 [3600, 3], in units. An
# event in the first second weighs one; later ones weigh more, as they decay less until the hour ends.
_WEIGHTS: Ints = np.rint(1 / _remaining(np.arange(HOUR_SECONDS)) / _UNIT).astype(np.int64)


def _from_units(sums: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Sums of `_WEIGHTS` as numbers of events; float32 everywhere, so that all users round the same way."""
    return (np.asarray(sums, np.int64) * _UNIT).astype(np.float32)


class HourSums(NamedTuple):
    """Sums over the events of each article and hour, in any order; sums of parts of a log can be merged."""

    keys: Ints  # int64 [H], ascending: the article's row and the hour since 1970, see `_key`
    # int64 [H, 10]: clicks, views, six sums of `_WEIGHTS` (of the clicks, then of the views), seconds of the
    # oldest and of the newest view
    totals: Ints

    @classmethod
    def of(cls, rows: Rows, seconds: Ints, clicked: npt.ArrayLike) -> Self:
        """The sums of some views: rows int32 [E], seconds int64 [E], clicked bool or uint8 [E]."""
        clicked = np.asarray(clicked, bool)
        parts = []
        for start in range(0, len(rows), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            hours, within = np.divmod(seconds[some], HOUR_SECONDS)
            weights, clicks = _WEIGHTS[within], clicked[some, None].astype(np.int64)
            times = seconds[some, None]
            totals = np.hstack([clicks, np.ones_like(clicks), clicks * weights, weights, times, times])
            parts.append(_summed(_key(rows[some], hours), totals))
        return cls.merged(cls(*part) for part in parts)

    @classmethod
    def merged(cls, parts: Iterable["HourSums"]) -> Self:
        """The sums of several parts of a log."""
        keys, totals = [np.zeros(0, np.int64)], [np.zeros((0, 10), np.int64)]
        for part in parts:
            keys.append(part.keys)
            totals.append(part.totals)
            if sum(map(len, keys)) > 4 * max(_TOGETHER, len(keys[0])):  # a log repeats its hours
                merged = _summed(np.concatenate(keys), np.concatenate(totals))
                keys, totals = [merged[0]], [merged[1]]
        return cls(*_summed(np.concatenate(keys), np.concatenate(totals)))


def _key(rows: npt.ArrayLike, hours: npt.ArrayLike) -> Ints:
    """Rows and hours since 1970 as one number each, which sorts by row, then hour."""
    return (np.asarray(rows, np.int64) << 32) + (np.asarray(hours, np.int64) + (1 << 31))


def _summed(keys: Ints, totals: Ints) -> tuple[Ints, Ints]:
    """The rows of equal keys as one: [H] keys, ascending, and [H, 10] totals."""
    order = np.argsort(keys, kind="stable")
    keys, totals = keys[order], totals[order]
    begins = np.flatnonzero(np.diff(keys, prepend=-1))
    if not len(begins):
        return keys, totals
    sums = np.add.reduceat(totals, begins)
    sums[:, 8] = np.minimum.reduceat(totals[:, 8], begins)
    sums[:, 9] = np.maximum.reduceat(totals[:, 9], begins)
    return keys[begins], sums


class Hours:
    """The state of N articles at the beginning and at the end of each hour in which they were shown.

    Args:
        sums: the sums of the whole log.
        articles: N, with the padding article in row 0, for which nothing is counted.
        earlier: earlier state of the articles, with only older events; None: empty.
        published: int64 [N], seconds since 1970, when each article was published; `UNKNOWN_TIME` if unknown.
    """

    def __init__(
        self, sums: HourSums, articles: int, earlier: CounterState | None, published: Ints | None
    ) -> None:
        counted = sums.keys >= _key(1, -(1 << 31))
        self._keys, totals = sums.keys[counted], sums.totals[counted]
        self.rows, self.hours = self._keys >> 32, (self._keys & 0xFFFFFFFF) - (1 << 31)
        nothing = CounterState(np.zeros((articles, len(COUNTS))), np.full(articles, UNKNOWN_TIME))
        known = nothing if earlier is None else earlier
        self._base = known.counts.copy()  # [articles, 8]
        self._base[0] = 0
        begins = self.hours * HOUR_SECONDS
        origin = int(begins.min()) if len(begins) else 0
        self._base_moment = origin if known.seconds is None else known.seconds
        self._newest = known.seconds
        if len(totals):
            newest = int(totals[:, 9].max())
            self._newest = newest if known.seconds is None else max(newest, known.seconds)
        firsts = np.flatnonzero(np.diff(self.rows, prepend=-1))
        of_earlier = self._base[self.rows[firsts]]
        self._within = _from_units(totals[:, 2:8])
        known_then = halved(of_earlier[:, 2:], begins[firsts] - self._base_moment)
        self._carried = _carried(self._within, begins, firsts, known_then)
        whole = np.cumsum(totals[:, :2], axis=0)  # of all articles
        lengths = np.diff(firsts, append=len(begins))
        self._whole = whole - np.repeat(whole[firsts] - totals[firsts, :2], lengths, axis=0)
        self._own = totals[:, :2]
        shown = np.full(articles, UNKNOWN_TIME)
        shown[self.rows[firsts]] = totals[firsts, 8]
        unknown = np.full(articles, UNKNOWN_TIME)
        self._first = earliest(known.first, shown, unknown if published is None else published)
        self._first[0] = UNKNOWN_TIME

    def before(
        self, rows: npt.ArrayLike, seconds: npt.ArrayLike, events: "Events"
    ) -> npt.NDArray[np.float32]:
        """Counters of articles strictly before a moment; events in that second are not counted.

        Args:
            rows: int [...].
            seconds: int64, of a shape that broadcasts with `rows`; later than `earlier`.
            events: the events of the hours of these moments.

        Returns:
            float32 [..., 9], in the order of `COUNTERS`; zeros for row 0.
        """
        rows, seconds = np.broadcast_arrays(np.asarray(rows, np.int64), np.asarray(seconds, np.int64))
        shape, rows, seconds = rows.shape, rows.ravel(), seconds.ravel()
        known = np.empty((len(rows), len(COUNTERS)), np.float32)
        for start in range(0, len(rows), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            known[some] = self._before(rows[some], seconds[some], events)
        return known.reshape(*shape, len(COUNTERS))

    def state(self) -> CounterState:
        """The state of the N articles after the whole log, as of its newest event."""
        counts = self._base.copy()  # [articles, 8]
        if self._newest is None:
            return CounterState(counts, self._first.copy())
        counts[:, 2:] = halved(counts[:, 2:], self._newest - self._base_moment)
        lasts = np.flatnonzero(np.diff(self.rows, append=-1))
        shown, in_all = self.rows[lasts], self._carried[lasts] + self._within[lasts]
        counts[shown, :2] += self._whole[lasts]
        counts[shown, 2:] = halved(in_all, self._newest - self.hours[lasts] * HOUR_SECONDS)
        return CounterState(counts, self._first.copy(), self._newest)

    def _before(self, rows: Ints, seconds: Ints, events: "Events") -> Floats:
        """As `before`, for [Q] queries: float64 [Q, 9]."""
        counts = self._base[rows]  # [queries, 8]
        since = seconds - self._base_moment
        if len(self._keys):
            clicks, views, sums = events.within(rows, seconds)
            hour = _key(rows, seconds // HOUR_SECONDS)
            last = np.searchsorted(self._keys, hour, "right") - 1
            some = views > 0
            last -= ~some & (last >= 0) & (self._keys[last] == hour)  # nothing yet in this hour
            seen = (last >= 0) & (self.rows[last] == rows)
            whole = self._whole[last]
            whole[some] += np.stack([clicks, views], 1)[some] - self._own[last[some]]
            in_all = self._carried[last] + np.where(some[:, None], sums, self._within[last])
            counts[:, :2] += np.where(seen[:, None], whole, 0)
            counts[:, 2:] = np.where(seen[:, None], in_all, counts[:, 2:])
            since = np.where(seen, seconds - self.hours[last] * HOUR_SECONDS, since)
        columns = counter_columns(counts, since, age_seconds(self._first[rows], seconds))
        columns[rows == 0] = 0
        return columns


def _carried(totals: npt.NDArray[np.float32], begins: Ints, firsts: Ints, known: Floats) -> Floats:
    """Decayed sums at the beginning of each hour, of all events before it: float64 [H, 6].

    Args:
        totals: [H, 6], halved clicks and views that each hour of each article adds, as of its beginning.
        begins: int64 [H], when each began, in seconds; hours of an article are adjacent, oldest first.
        firsts: int64 [A], increasing from 0: the place of each article's first hour.
        known: [A, 6], decayed sums of earlier logs at the beginning of each article's first hour.
    """
    sums = totals.astype(np.float64)
    gaps = np.diff(begins, prepend=0)
    gaps[firsts] = 0
    left = np.tile(_remaining(gaps), 2)  # [hours, 6]
    kept = np.empty(sums.shape)
    kept[firsts] = known
    lengths = np.diff(firsts, append=len(begins))
    longest_first = np.argsort(-lengths, kind="stable")
    places, lengths = firsts[longest_first], lengths[longest_first]
    for hour in range(1, lengths[0] if len(lengths) else 0):
        places = places[: np.searchsorted(-lengths, -hour)] + 1  # of the articles with so many hours
        kept[places] = (kept[places - 1] + sums[places - 1]) * left[places]
    return kept


class Events:
    """The events of some hours, to be looked up within their hour; 48 bytes for each article and second.

    Args:
        rows: int32 [E], the article of each view, in any order.
        seconds: int64 [E], when, since 1970.
        clicked: bool or uint8 [E], whether it was clicked; or how often, if a row stands for several views.
        views: int64 [E], how many views each row stands for; None: one.
    """

    def __init__(self, rows: Rows, seconds: Ints, clicked: npt.ArrayLike, views: Ints | None = None) -> None:
        hours = seconds // HOUR_SECONDS if len(seconds) else np.zeros(1, np.int64)
        self._origin = int(hours.min()) * HOUR_SECONDS
        self._seconds_long = (int(hours.max()) + 1) * HOUR_SECONDS - self._origin
        keys = rows.astype(np.int64) * self._seconds_long + (seconds - self._origin)
        order = np.argsort(keys)[np.count_nonzero(rows == 0) :]
        keys = keys[order]
        distinct = np.flatnonzero(np.diff(keys, prepend=-1))  # in a large log, seconds of an article repeat
        self._keys, ends = keys[distinct], np.append(distinct, len(keys))
        each = np.ones(len(rows), np.int64) if views is None else views
        # Before each key:
        self._views, self._clicks = (
            np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64)[order])])[ends]
            for counts in (each, clicked)
        )
        begins = np.flatnonzero(np.diff(self._keys // HOUR_SECONDS, prepend=-1))
        lengths = np.diff(begins, append=len(self._keys))
        self._sums = np.empty((len(self._keys), 2 * len(HALF_LIVES_HOURS)), np.float32)
        within = self._keys % HOUR_SECONDS
        for column in range(2 * len(HALF_LIVES_HOURS)):
            events = self._clicks if column < len(HALF_LIVES_HOURS) else self._views
            weights = _WEIGHTS[within, column % len(HALF_LIVES_HOURS)] * np.diff(events)
            # May overflow int64 and wrap around: the differences are right all the same.
            total = np.cumsum(weights)
            before = total[begins] - weights[begins]
            self._sums[:, column] = _from_units(total - np.repeat(before, lengths))

    def __len__(self) -> int:
        return len(self._keys)

    def within(self, rows: Ints, seconds: Ints) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
        """What happened to articles, int64 [Q], in the hour of a moment, int64 [Q], strictly before it.

        Returns:
            clicks and views int64 [Q]; decayed sums as of the beginning of the hour, float32 [Q, 6].
        """
        keys = rows * self._seconds_long + np.clip(seconds - self._origin, 0, self._seconds_long)
        ends = np.searchsorted(self._keys, keys)
        starts = np.searchsorted(self._keys, keys - keys % HOUR_SECONDS)
        views, clicks = (each[ends] - each[starts] for each in (self._views, self._clicks))
        sums = np.zeros((len(keys), self._sums.shape[1]), np.float32)
        some = views > 0
        sums[some] = self._sums[ends[some] - 1]
        return clicks, views, sums


class LogCounters:
    """The counters of a log in columns of any size, of which only some hours' events are held at a time.

    The impressions may be in any order; that of time is quickest. The other arguments are those of `Hours`.
    """

    def __init__(
        self,
        examples: Sequence[ImpressionExample],
        articles: int,
        earlier: CounterState | None = None,
        published: Ints | None = None,
    ) -> None:
        self._columns = columns = ImpressionColumns.of(examples)
        blocks = columns.blocks("candidates", "labels")
        sums = HourSums.merged(
            HourSums.of(block.candidates, block.seconds[block.row_of_candidate], block.labels)
            for block in blocks
        )
        self.hours = Hours(sums, articles, earlier, published)
        self._order = np.argsort(columns.seconds, kind="stable")
        hours = columns.seconds[self._order] // HOUR_SECONDS
        views = np.concatenate([[0], np.cumsum(columns.shown[self._order])])
        begins = np.flatnonzero(np.diff(hours, prepend=hours[:1] - 1))
        group = views[begins] // _GROUP_VIEWS
        kept = np.flatnonzero(np.diff(group, prepend=-1))
        self._starts = np.append(begins[kept], len(hours))
        self._first_hours = hours[begins[kept]]
        self._groups: dict[int, Events] = {}

    def before(self, rows: npt.ArrayLike, second: int) -> npt.NDArray[np.float32]:
        """Counters of articles strictly before one moment: rows int [N] -> float32 [N, 9]."""
        group = int(np.searchsorted(self._first_hours, second // HOUR_SECONDS, "right")) - 1
        return self.hours.before(rows, second, self._events(max(group, 0)))

    def known(self) -> Iterator[tuple[Ints, npt.NDArray[np.float32]]]:
        """For groups of impressions their numbers, and the counters of their candidates just before each.

        Yields:
            int64 [k] in the order of time; float32 [candidates of all, 9].
        """
        for group in range(len(self._first_hours)):
            numbers, rows, seconds, clicked = self._views(group)
            yield numbers, self.hours.before(rows, seconds, Events(rows, seconds, clicked))

    def _views(self, group: int) -> tuple[Ints, Rows, Ints, npt.NDArray[np.uint8]]:
        """The impressions of a group of hours; of their views the articles, seconds and clicks."""
        numbers = self._order[slice(*self._starts[group : group + 2])]
        block = self._columns.take(numbers, "candidates", "labels")
        return numbers, block.candidates, block.seconds[block.row_of_candidate], block.labels

    def _read(self, group: int) -> Events:
        """The events of a group, read in parts, because a single hour may have millions of views."""
        numbers = self._order[slice(*self._starts[group : group + 2])]
        part = np.cumsum(self._columns.shown[numbers]) // _TOGETHER
        found = []
        for some in np.split(numbers, np.flatnonzero(np.diff(part)) + 1):
            block = self._columns.take(some, "candidates", "labels")
            seconds = block.seconds[block.row_of_candidate]
            keys = (block.candidates.astype(np.int64) << 32) + seconds - seconds[:1]
            _, first, of_key = np.unique(keys, return_index=True, return_inverse=True)
            clicks, views = np.bincount(of_key, block.labels), np.bincount(of_key)
            found.append((block.candidates[first], seconds[first], clicks.astype(np.int64), views))
        return Events(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def _events(self, group: int) -> Events:
        events = self._groups.pop(group, None)
        if events is None:
            events = self._read(group)
            room = max(0, _GROUPS * _GROUP_VIEWS - len(events))
            while sum(map(len, self._groups.values())) > room:
                self._groups.pop(next(iter(self._groups)))
        self._groups[group] = events  # the newest last
        return events
