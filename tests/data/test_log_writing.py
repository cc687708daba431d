"""Counting a log in little memory gives what counting it impression by impression gives."""

import random
from datetime import datetime, timedelta

import numpy as np

from genre_tf.data import log_writing
from genre_tf.data.articles import Article, ArticleTable, Impression
from genre_tf.data.counters import Counters, impression_counters
from genre_tf.data.log_writing import LoggedViews
from genre_tf.data.records import prepare

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


def test_every_impression_knows_the_same_past():
    log, counters, views = shuffled_log(), Counters(), LoggedViews(TABLE)
    expected = impression_counters(log, counters)
    for impression in log:
        views.add(impression)
    counted = views.count()
    assert counted == counters
    for number, known in enumerate(expected):
        np.testing.assert_array_equal(views.known_before(number), known)
        assert views.known_before(number).dtype == known.dtype


def test_a_log_that_goes_on_from_another_knows_what_one_whole_log_knows():
    log = sorted(shuffled_log(), key=lambda impression: impression.time)
    log.insert(0, Impression("first", "U", log[0].time - timedelta(days=1), (), ("u",), (True,)))
    begins = next(n for n in range(150, 300) if log[n].time > log[n - 1].time)
    counters = Counters()
    expected = impression_counters(log, counters)
    earlier = LoggedViews(TABLE)
    for impression in log[:begins]:
        earlier.add(impression)
    # The later catalogue has other rows, and no longer lists an article that was shown before.
    listed = ArticleTable(Article(name, "", "", name, "") for name in "w" + NAMES[::-1])
    known_before = earlier.count()
    later = LoggedViews(listed, known_before)
    for impression in log[begins:]:
        later.add(impression)
    counted = later.count()
    assert (counted.clicks, counted.views, counted.newest) == (
        counters.clicks,
        counters.views,
        counters.newest,
    )
    end = counters.newest + timedelta(seconds=1)
    found, wanted = (each.features([*NAMES, "u", "unseen"], end) for each in (counted, counters))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for number, known in enumerate(expected[begins:]):
        np.testing.assert_allclose(later.known_before(number), known, rtol=1e-6)
    assert known_before == earlier.count()


def test_ages_are_counted_from_the_publishing_times_of_the_table(monkeypatch):
    monkeypatch.setattr(log_writing, "_BLOCK_IMPRESSIONS", 7)
    published = datetime(2019, 11, 9, 3)
    articles = [Article(name, "", "", name, "", published if name in "abc" else None) for name in NAMES]
    log, counters, views = shuffled_log(), Counters(), LoggedViews(ArticleTable(articles))
    counters.publish(articles)
    expected = impression_counters(log, counters)
    for impression in log:
        views.add(impression)
    assert views.count() == counters
    for number in random.Random(1).sample(range(len(log)), len(log)):
        np.testing.assert_array_equal(views.known_before(number), expected[number])


def test_a_log_without_labels_counts_views_alone():
    log, views = shuffled_log(20), LoggedViews(TABLE)
    for one in log:
        views.add(Impression(one.impression_id, one.user_id, one.time, (), one.candidates, None))
    counted = views.count()
    assert counted.clicks == {}
    assert sum(counted.views.values()) == sum(len(one.candidates) for one in log)


def test_more_shards_than_are_open_at_once_hold_the_same(write_split, tmp_path, monkeypatch):
    data = write_split()
    prepare(data, tmp_path / "together", shards=5, validation_share=0.25)
    monkeypatch.setattr(log_writing, "OPEN_SHARDS", 2)
    prepare(data, tmp_path / "in_turns", shards=5, validation_share=0.25)
    outs = [tmp_path / "together", tmp_path / "in_turns"]
    files = [{path.name: path.read_bytes() for path in out.iterdir()} for out in outs]
    assert files[0] == files[1]
