"""Which articles may be shown, which are new, and the age limit of a log: numbers computed by hand."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.counters import COUNTERS
from genre_tf.funnel.index import Catalogue, may_be_found
from genre_tf.funnel.rules import (
    NEW_VIEWS,
    NO_LIMIT,
    exploration_noise,
    is_new,
    learned_age_limit,
    may_be_shown,
)


def article(**counters):
    return [counters.get(name, 0.0) for name in COUNTERS]


CASES = {
    # name: (counters, shown without a limit, shown with a limit of 48 hours)
    "young": (article(views=9, age_hours=3), True, True),
    "just published, never shown": (article(age_hours=1e-3), True, True),
    "at the limit": (article(views=9, age_hours=48), True, True),
    "stale": (article(views=9, clicks=500, age_hours=49), True, False),
    "old and still read": (article(views=9, age_hours=900, clicks_24h=0.5), True, True),
    "old and hardly read": (article(views=9, age_hours=900, clicks_24h=0.49), True, False),
    "published long ago, never shown": (article(age_hours=49), True, False),
    "without any time": (article(), True, False),
    "shown this very second": (article(views=1), True, True),
    "under embargo": (article(age_hours=-0.5), False, False),
    "under embargo, read elsewhere": (article(age_hours=-0.5, views=7, clicks_24h=5), False, False),
}
COUNTERS_OF_CASES = np.array([counters for counters, *_ in CASES.values()], np.float32)


@pytest.mark.parametrize(("limit", "column"), [(NO_LIMIT, 1), (48.0, 2)])
def test_may_be_shown_by_hand_and_alike_in_numpy_and_tensorflow(limit, column):
    expected = {name: case[column] for name, case in CASES.items()}
    by_numpy = may_be_shown(COUNTERS_OF_CASES, limit)
    assert dict(zip(CASES, by_numpy.tolist(), strict=True)) == expected
    limited = tf.function(may_be_shown, autograph=False)
    by_tensorflow = limited(tf.constant(COUNTERS_OF_CASES)[None], tf.constant(limit, tf.float32))
    assert by_tensorflow.shape == (1, len(CASES)) and by_tensorflow.numpy()[0].tolist() == by_numpy.tolist()


def test_both_libraries_agree_on_random_counters():
    random = np.random.default_rng(0)
    counters = random.choice([-1.0, 0.0, 0.3, 0.5, 9.0, 10.0, 50.0], (500, len(COUNTERS))).astype(np.float32)
    for limit in (0.1, 9.0, 40.0, NO_LIMIT):
        shown = may_be_shown(tf.constant(counters), tf.constant(limit, tf.float32))
        np.testing.assert_array_equal(may_be_shown(counters, limit), shown)
    np.testing.assert_array_equal(is_new(counters), is_new(tf.constant(counters)))


def test_an_article_is_new_until_it_was_shown_ten_times():
    counters = np.array([article(views=views, clicks=3) for views in (0, 9, 10, 11)], np.float32)
    assert NEW_VIEWS == 10 and is_new(counters).tolist() == [True, True, False, False]


def test_neither_the_padding_nor_what_was_withdrawn_is_found():
    counters = np.array([article(), *[article(views=20, age_hours=1)] * 3], np.float32)
    names, vectors = ["", "N1", "N2", "N3"], np.zeros((4, 2), np.float32)
    withdrawn = np.array([False, False, True, False])
    catalogue = Catalogue(names, names, names, vectors, vectors, counters, withdrawn=withdrawn)
    for limit in (None, 48.0):
        assert may_be_found(catalogue, limit).tolist() == [False, True, False, True]
    assert may_be_found(catalogue, 0.5).tolist() == [False] * 4


def clicks_at(*ages, clicks_24h=0.0):
    return np.array([article(age_hours=age, clicks_24h=clicks_24h) for age in ages], np.float32)


def test_the_learned_limit_keeps_99_of_100_clicks_and_is_rounded_up():
    # 200 clicks at ages of 1, 2, ... 200 hours: 198 of them are no older than 198 hours.
    assert learned_age_limit(clicks_at(*range(1, 201))) == pytest.approx(199, abs=1)
    assert (np.arange(1, 201) <= learned_age_limit(clicks_at(*range(1, 201)))).mean() >= 0.99
    assert learned_age_limit(clicks_at(*[30.2] * 99, 500)) in (31.0, 500.0)
    assert learned_age_limit(clicks_at(30.2)) == 31.0
    assert learned_age_limit(clicks_at(30, 40, 50, 60), share=0.5) == 50.0


def test_the_learned_limit_is_a_day_at_least_and_passes_over_what_is_still_read():
    assert learned_age_limit(clicks_at(0.1, 2.0, 5.0)) == 24.0
    still_read = np.concatenate([clicks_at(30.0), clicks_at(800.0, clicks_24h=0.5)])
    assert learned_age_limit(still_read) == 30.0


def test_a_log_without_clicks_teaches_no_limit():
    assert learned_age_limit(np.zeros((0, len(COUNTERS)), np.float32)) is None


def test_noise_depends_on_the_request_and_the_article_alone_and_is_gumbel():
    keys, rows = tf.range(300, dtype=tf.int64), tf.range(400, dtype=tf.int64)[None]
    noise = exploration_noise(keys, rows).numpy()  # [300, 400]
    assert np.isfinite(noise).all()
    alone = exploration_noise(keys[7:8], rows[:, 5:9])[0]
    np.testing.assert_allclose(alone, noise[7, 5:9], atol=1e-6)
    # The mean of a standard Gumbel is Euler's constant and its variance a sixth of pi squared.
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.03)
    winners = np.bincount(noise.argmax(axis=1), minlength=400)
    assert winners.max() <= 8  # of 300 requests: no article is always drawn
    for axis in (0, 1):  # neither neighbouring articles nor neighbouring requests share their noise
        pairs = np.moveaxis(noise, axis, 0)
        assert abs(np.corrcoef(pairs[:-1].ravel(), pairs[1:].ravel())[0, 1]) < 0.02
