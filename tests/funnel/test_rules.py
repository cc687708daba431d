"""What may be recommended, and what is beside the order of the click probabilities: ages, caps, diversity."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.contract import RECOMMENDER
from genre_tf.data.counters import COUNTERS
from genre_tf.errors import InputError
from genre_tf.export import replay
from genre_tf.export.gate import portability_violations
from genre_tf.export.requests import recorded_requests
from genre_tf.export.saved_model import write_saved_model
from genre_tf.export.servables import new_recommender
from genre_tf.funnel.index import Catalogue, may_be_found
from genre_tf.funnel.rules import (
    NEW_VIEWS,
    NO_CATEGORY,
    NO_LIMIT,
    Rules,
    exploration_noise,
    is_new,
    learned_age_limit,
    may_be_shown,
    select,
)
from genre_tf.funnel.served_models import ServedModels

from ..export.conftest import ask_directly
from ..export.reference import RecommenderReference

SIZES = {"max_history": 50, "k": 10, "retrieve": 30}
RULES = Rules(max_age_hours=150, max_per_category=2, diversity=0.6)


def chosen(probability, vectors, categories, k, found=None, **rules):
    """Places of one row, in order of choice."""
    found = [True] * len(probability) if found is None else found
    row = [tf.constant([part]) for part in (probability, found, vectors, categories)]
    row[0], row[2], row[3] = (
        tf.cast(row[i], kind) for i, kind in ((0, tf.float32), (2, tf.float32), (3, tf.int32))
    )
    places, real = select(*row, k, Rules(**rules))
    assert places.shape[1:] == real.shape[1:] == (k,)
    return [place for place, kept in zip(places[0].numpy().tolist(), real[0].numpy(), strict=True) if kept]


PROBABILITY = [0.9, 0.8, 0.7, 0.2]
ALIKE = [[1, 0], [1, 0.01], [0, 1], [0.1, -1]]  # the second is nearly the first
UNKNOWN = [NO_CATEGORY] * 4


def test_with_lambda_1_the_order_is_that_of_the_click_probabilities():
    assert chosen(PROBABILITY, ALIKE, UNKNOWN, 3, diversity=1.0) == [0, 1, 2]
    assert chosen(PROBABILITY[::-1], ALIKE, UNKNOWN, 3, diversity=1.0) == [3, 2, 1]


def test_less_of_it_puts_what_resembles_a_chosen_one_behind():
    assert chosen(PROBABILITY, ALIKE, UNKNOWN, 3, diversity=0.5) == [0, 2, 3]
    assert chosen(PROBABILITY, ALIKE, UNKNOWN, 4, diversity=0.5) == [0, 2, 3, 1]
    assert chosen(PROBABILITY, ALIKE, UNKNOWN, 2, diversity=0.95) == [0, 1]


def test_the_scale_of_the_click_probabilities_does_not_matter():
    small = [1e-3 * value for value in PROBABILITY]
    assert chosen(small, ALIKE, UNKNOWN, 4, diversity=0.5) == [0, 2, 3, 1]


def test_a_cap_holds_and_what_has_no_category_is_not_capped():
    assert chosen(PROBABILITY, ALIKE, [5, 5, 5, 6], 4, max_per_category=1) == [0, 3]
    assert chosen(PROBABILITY, ALIKE, [5, 5, 5, 6], 4, max_per_category=2) == [0, 1, 3]
    assert chosen(PROBABILITY, ALIKE, UNKNOWN, 4, max_per_category=1) == [0, 1, 2, 3]


def test_what_was_not_found_is_not_chosen_and_equal_probabilities_are_no_fault():
    assert chosen(PROBABILITY, ALIKE, UNKNOWN, 6, [False, True, False, True], diversity=0.5) == [1, 3]
    assert chosen([0.5] * 4, ALIKE, UNKNOWN, 2, diversity=0.5) == [0, 2]
    assert chosen(PROBABILITY, ALIKE, UNKNOWN, 2, [False] * 4, diversity=0.5) == []


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_age_hours": 0}, "max_age_hours must be a finite number above 0; got 0"),
        ({"max_age_hours": float("nan")}, "max_age_hours must be a finite number above 0; got nan"),
        ({"max_per_category": 0}, "max_per_category must be at least 1; got 0"),
        ({"diversity": 1.5}, "diversity must be between 0 and 1; got 1.5"),
        ({"diversity": float("nan")}, "diversity must be between 0 and 1; got nan"),
        ({"exploration": -0.1}, "exploration must be between 0 and 1; got -0.1"),
        ({"exploration": float("nan")}, "exploration must be between 0 and 1; got nan"),
    ],
)
def test_impossible_rules_are_wrong_input(rules, message):
    with pytest.raises(InputError, match=message):
        Rules(**rules)


def test_the_contract_holds_only_rules_that_are_on():
    assert Rules().as_sizes() == {}
    assert Rules(max_per_category=3, diversity=0.7).as_sizes() == {"max_per_category": 3, "diversity": 0.7}
    assert Rules(exploration=0).as_sizes() == {"exploration": 0}


@pytest.fixture(scope="module")
def categorized(catalogue):
    categories = [
        "",
        *(("sports", "finance", "weather", "")[row % 4] for row in range(1, len(catalogue.news_ids))),
    ]
    return dataclasses.replace(catalogue, categories=categories)


@pytest.fixture(scope="module")
def ruled(models, categorized, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ruled")
    return new_recommender(ServedModels(*models), categorized, folder, **SIZES, rules=RULES)


@pytest.fixture(scope="module")
def ask_ruled(ruled):
    return ask_directly(ruled)


def test_rules_leave_the_graph_portable(ruled, tmp_path):
    write_saved_model(tmp_path / "1", [ruled.index], {"recommend": (ruled.recommend, {"history": tf.string})})
    assert [str(violation) for violation in portability_violations(tmp_path / "1")] == []


def test_rules_hold_in_the_served_graph(ask_ruled, categorized):
    answer = ask_ruled("recommend", history=["N1 N2 N3", ""])
    row_of = {news_id.encode(): row for row, news_id in enumerate(categorized.news_ids)}
    for shown in answer["news_id"]:
        rows = [row_of[news_id] for news_id in shown if news_id]
        kinds = [categorized.categories[row] for row in rows]
        assert len(rows) > 4 and len(set(rows)) == len(rows)
        assert all(kinds.count(kind) <= 2 for kind in set(kinds) - {""})
        assert may_be_shown(categorized.counters[rows], 150).all()


def test_articles_that_are_too_old_are_still_known(ask_ruled, categorized):
    shown = may_be_found(categorized, 150)
    old = [news_id for news_id, found in zip(categorized.news_ids[1:], shown[1:], strict=True) if not found]
    assert len(old) > 5
    assert ask_ruled("score", history=["N1"], candidates=[" ".join(old)])["known"].all()
    assert ask_ruled("explain", history=[" ".join(old)], candidates=["N1"])["weight"].sum() > 0.99


def test_the_graph_recommends_as_the_reference_does(ask_ruled, models, categorized, bias):
    reference = RecommenderReference(ServedModels(*models), categorized, **SIZES, rules=RULES)
    for request in recorded_requests(RECOMMENDER, categorized):
        if request.signature in ("recommend", "recommend_text", "recommend_live"):
            rows = {name: list(values) for name, values in request.inputs.items()}
            expected, actual = reference.answer(request).outputs, ask_ruled(request.signature, **rows)
            assert replay.compare(expected, actual)[1] == [], request.case
            assert actual["news_id"].tolist() == expected["news_id"].tolist(), request.case


def test_rules_at_their_plainest_recommend_as_none(models, categorized, ask, tmp_path):
    """Lambda 1 and a cap that nothing reaches: the loop chooses what the plain top-k does."""
    rules = Rules(max_per_category=SIZES["k"])
    recommender = new_recommender(ServedModels(*models), categorized, tmp_path, **SIZES, rules=rules)
    answer = recommender.recommend(tf.constant(["N1 N2", "", "N9"]))
    plain = ask("recommend", history=["N1 N2", "", "N9"])
    assert answer["news_id"].numpy().tolist() == plain["news_id"].tolist()
    np.testing.assert_allclose(answer["score"].numpy(), plain["score"], rtol=1e-3)


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
