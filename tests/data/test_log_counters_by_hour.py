"""Counting a log hour by hour gives what counting by hand gives."""

import random
from datetime import datetime, timedelta

import numpy as np

from genre_tf.data import log_counters
from genre_tf.data.articles import Article, ArticleTable, Impression
from genre_tf.data.click_log import block_of
from genre_tf.data.columns import ImpressionColumns
from genre_tf.data.counters import Counters, count_log
from genre_tf.data.log_counters import LogCounters

NAMES = "abcdefgh"
TABLE = ArticleTable(Article(name, "", "", name, "") for name in NAMES + "unseen")


def shuffled_log(impressions=300):
    """Out of the order of time, with several impressions in most seconds and hours."""
    rng = random.Random(8)
    log = []
    for number in range(impressions):
        time = datetime(2019, 11, 9) + timedelta(hours=rng.randrange(12), seconds=rng.randrange(5))
        shown = tuple(rng.sample(NAMES, rng.randrange(1, 6)))
        clicked = tuple(rng.random() < 0.3 for _ in shown)
        log.append(Impression(str(number), "U", time, (), shown, clicked))
    return log


def counted(log, table=TABLE, earlier=None):
    """The counters before each impression, and those at the end of the log."""
    after = earlier.copy() if earlier else Counters()
    columns = ImpressionColumns([block_of(log, table, 50)])
    count_log(columns, table, after)
    return [one.counters for one in columns], after


def counted_by_hand(log, articles=()):
    """The same, from all events before each impression, one impression after the other."""
    found, after = [], Counters()
    after.publish(articles)
    for one in log:
        before = after.copy()
        for other in log:
            if other.time < one.time:
                before.observe(other)
        found.append(before.features(one.candidates, one.time))
    for one in log:
        after.observe(one)
    return found, after


def same(after, expected):
    """Whether counters at the end of a log agree."""
    end = expected.newest + timedelta(seconds=1)
    found, wanted = (each.features([*NAMES, "u", "unseen"], end) for each in (after, expected))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert (after.clicks, after.views, after.newest) == (expected.clicks, expected.views, expected.newest)


def test_every_impression_knows_the_same_past(monkeypatch):
    monkeypatch.setattr(log_counters, "_GROUP_VIEWS", 40)
    log = shuffled_log()
    expected, counters = counted_by_hand(log)
    found, after = counted(log)
    same(after, counters)
    for one, known in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, known, rtol=1e-5)
        assert one.dtype == known.dtype


def test_the_groups_of_hours_in_memory_do_not_matter(monkeypatch):
    columns = ImpressionColumns([block_of(shuffled_log(), TABLE, 50)])
    whole = LogCounters(columns, len(TABLE))
    monkeypatch.setattr(log_counters, "_GROUP_VIEWS", 30)
    monkeypatch.setattr(log_counters, "_GROUPS", 2)
    monkeypatch.setattr(log_counters, "_TOGETHER", 8)
    parts = LogCounters(columns, len(TABLE))
    random.Random(3).shuffle(seconds := [*range(0, 13 * 3600, 997)])
    for second in seconds:
        moment = int(columns.seconds.min()) + second
        np.testing.assert_array_equal(parts.before(range(9), moment), whole.before(range(9), moment))
        assert len(parts._groups) == 1 or sum(map(len, parts._groups.values())) <= 60  # views


def test_a_log_that_goes_on_from_another_knows_what_one_whole_log_knows():
    log = sorted(shuffled_log(), key=lambda impression: impression.time)
    log.insert(0, Impression("first", "U", log[0].time - timedelta(days=1), (), ("u",), (True,)))
    begins = next(n for n in range(150, 300) if log[n].time > log[n - 1].time)
    everything = ArticleTable(Article(name, "", "", name, "") for name in [*NAMES, "u"])
    expected, counters = counted(log, everything)
    _, earlier = counted(log[:begins], everything)
    # The later catalogue has other rows, and no longer lists an article that was shown before.
    listed = ArticleTable(Article(name, "", "", name, "") for name in "w" + NAMES[::-1])
    known, after = counted(log[begins:], listed, earlier)
    same(after, counters)
    for one, wanted in zip(known, expected[begins:], strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-6)


def test_ages_are_counted_from_the_publishing_times_of_the_table():
    published = datetime(2019, 11, 9, 3)
    articles = [Article(name, "", "", name, "", published if name in "abc" else None) for name in NAMES]
    log = shuffled_log()
    expected, counters = counted_by_hand(log, articles)
    found, after = counted(log, ArticleTable(articles))
    same(after, counters)
    for one, known in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, known, rtol=1e-5)


def test_a_log_without_labels_counts_views_alone():
    log = [Impression(one.impression_id, "U", one.time, (), one.candidates, None) for one in shuffled_log(20)]
    _, after = counted(log)
    assert after.clicks == {}
    assert sum(after.views.values()) == sum(len(one.candidates) for one in log)
