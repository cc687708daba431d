"""A log knows what was before any moment, as counting event by event would; never what came later."""

import numpy as np
import pytest

from genre_tf.contract import COUNTERS
from genre_tf.data.log_counters import (
    HALF_LIVES_HOURS,
    UNKNOWN_TIME,
    CounterState,
    Events,
    Hours,
    HourSums,
    merged,
)

BEGIN = 1_573_289_000  # not the beginning of an hour


class Counted:
    """The three steps of counting, for a log in memory."""

    def __init__(self, articles, rows, seconds, clicked, earlier=None, published=None) -> None:
        self.events = Events(rows, seconds, clicked)
        self.hours = Hours(HourSums.of(rows, seconds, clicked), articles, earlier, published)

    def before(self, rows, seconds):
        return self.hours.before(rows, seconds, self.events)

    def state(self) -> CounterState:
        return self.hours.state()


class RandomLog:
    """A random log; `span` seconds long, so that a short one has many events in one second."""

    def __init__(self, events: int, span: int, articles: int = 6, seed: int = 1) -> None:
        random = np.random.default_rng(seed)
        self.articles, self.span = articles, span
        self.rows = random.integers(0, articles, events).astype(np.int32)
        self.seconds = BEGIN + random.integers(0, span, events)
        self.clicked = random.random(events) < 0.3
        published = BEGIN + random.integers(-span, 2 * span, articles)
        self.published = np.where(random.random(articles) < 0.5, UNKNOWN_TIME, published)

    def log(self, chosen: np.ndarray | slice = slice(None), earlier: CounterState | None = None) -> Counted:
        columns = (each[chosen] for each in (self.rows, self.seconds, self.clicked))
        return Counted(self.articles, *columns, earlier, self.published)

    def by_hand(self, row: int, moment: int) -> list[float]:
        """One event after the other, in float64."""
        if row == 0:
            return [0.0] * len(COUNTERS)
        counts, first = np.zeros((2, 4)), []
        for one, second, clicked in zip(self.rows, self.seconds, self.clicked, strict=True):
            if one == row and second < moment:
                left = [0.5 ** ((moment - second) / 3600 / hours) for hours in HALF_LIVES_HOURS]
                counts += np.outer([clicked, 1], [1, *left])
                first.append(second)
        if self.published[row] != UNKNOWN_TIME:
            first.append(self.published[row])
        age = max(0, moment - min(first)) / 3600 if first else 0
        return [counts[0, 0], counts[1, 0], age, *counts[0, 1:], *counts[1, 1:]]


@pytest.mark.parametrize(("events", "span"), [(300, 20), (300, 200_000), (40, 9_000_000), (1, 5), (0, 100)])
def test_a_log_knows_what_counting_by_hand_finds(events, span):
    log = RandomLog(events, span)
    random = np.random.default_rng(2)
    rows = random.integers(0, log.articles, (10, 20))
    seconds = BEGIN + random.integers(-10, 2 * span, (10, 1))
    expected = [
        [log.by_hand(row, moment[0]) for row in some] for some, moment in zip(rows, seconds, strict=True)
    ]
    found = log.log().before(rows, seconds)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)


def test_a_log_that_goes_on_from_another_knows_what_both_know():
    events = RandomLog(400, 100_000)
    moment = BEGIN + 47_111
    past, later = events.seconds < moment, events.seconds >= moment
    log = events.log(later, events.log(past).state())
    rows, seconds = np.arange(6), np.arange(moment, moment + 90_000, 3_000)[:, None]
    np.testing.assert_allclose(log.before(rows, seconds), events.log().before(rows, seconds), rtol=1e-5)
    state, whole = log.state(), events.log().state()
    np.testing.assert_allclose(state.counts, whole.counts, rtol=1e-6)
    np.testing.assert_array_equal(state.first, whole.first)
    assert state.seconds == whole.seconds == events.seconds.max()


def test_the_future_turned_round_changes_nothing():
    events = RandomLog(500, 20_000)
    random = np.random.default_rng(3)
    for moment in np.unique(events.seconds)[::40]:
        known = events.log().before(np.arange(6), moment)
        future = np.flatnonzero(events.seconds >= moment)
        changed = RandomLog(500, 20_000)
        changed.clicked[future] ^= True
        changed.rows[future] = random.permutation(changed.rows[future])
        changed.seconds[future] = moment + random.permutation(changed.seconds[future] - moment)
        np.testing.assert_array_equal(changed.log().before(np.arange(6), moment), known)
        np.testing.assert_array_equal(events.log(events.seconds < moment).before(np.arange(6), moment), known)


def test_the_order_of_the_events_does_not_matter():
    events = RandomLog(500, 20_000)
    shuffled = np.random.default_rng(4).permutation(500)
    logs = events.log(), events.log(shuffled)
    rows, seconds = np.arange(6), BEGIN + np.arange(0, 30_000, 700)[:, None]
    np.testing.assert_array_equal(logs[0].before(rows, seconds), logs[1].before(rows, seconds))
    np.testing.assert_array_equal(logs[0].state().counts, logs[1].state().counts)


def test_many_views_long_ago_leave_the_few_of_today_exact():
    old, new = np.zeros(100_000, np.int64), np.full(3, 400 * 86_400)
    seconds = np.concatenate([old, new])
    log = Counted(2, np.ones(len(seconds), np.int32), seconds, np.ones(len(seconds), bool))
    found = log.before(1, int(new[0]) + 3600)
    np.testing.assert_allclose(found[3:], np.tile(3 * 0.5 ** (1 / np.array(HALF_LIVES_HOURS)), 2), rtol=1e-6)


def test_counts_halve_and_ages_grow_where_there_is_one():
    counters = np.zeros((3, 9), np.float32)
    counters[0] = [4, 8, 2, *[1] * 3, *[2] * 3]
    counters[1, 2] = 5  # published, and never shown
    later = merged(counters, 6, np.zeros((3, 9), np.float32))
    np.testing.assert_allclose(
        later[0], [4, 8, 8, 1 / 64, 0.5, 0.5**0.25, 1 / 32, 1, 2 * 0.5**0.25], rtol=1e-6
    )
    assert later[1].tolist() == [0, 0, 11, 0, 0, 0, 0, 0, 0]
    assert not later[2].any()


def test_counters_before_and_of_a_later_log_make_those_of_both():
    events = RandomLog(400, 100_000)
    events.published[:] = UNKNOWN_TIME
    cut, end = BEGIN + 50_000, BEGIN + 120_000
    past, later = (events.log(chosen) for chosen in (events.seconds < cut, events.seconds >= cut))
    rows = np.arange(6)
    both = merged(past.before(rows, cut), (end - cut) / 3600, later.before(rows, end))
    np.testing.assert_allclose(both, events.log().before(rows, end), rtol=1e-5)
