"""Rules that order the whole pool."""

import numpy as np
import pytest

from genre_tf.data.counters import COUNTERS
from genre_tf.evaluation.pool_metrics import BASELINES, baseline_scores, rank_metrics, ranks_of

RNG = np.random.default_rng(0)
ROWS = np.array(
    # clicks, views, age_hours, clicks halved every 1, 6, 24 hours, views so
    [
        [9, 90, 50, 0, 1, 4, 0, 9, 40],
        [3, 30, 2, 2, 3, 3, 20, 25, 29],
        [0, 10, 1, 0, 0, 0, 9, 9, 9],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    np.float32,
)
CATEGORIES = np.array([0, 1, 1, 2])
NONE = np.empty(0, np.int64)


def scores(name: str, history: np.ndarray = NONE) -> list[float]:
    return baseline_scores(ROWS, CATEGORIES, history, RNG)[name].tolist()


def test_clicks_are_read_from_their_own_columns():
    assert len(COUNTERS) == ROWS.shape[1]
    assert scores("clicks") == [9, 3, 0, 0]
    assert scores("clicks_1h") == [0, 2, 0, 0]
    assert scores("clicks_6h") == [1, 3, 0, 0]
    assert scores("clicks_24h") == [4, 3, 0, 0]


def test_categories_of_the_history_raise_the_clicks_of_their_articles():
    assert scores("clicks_of_categories", np.array([0, 0, 0, 7, -1])) == [4, 3, 0, 0]
    assert scores("clicks_of_categories") == scores("clicks_6h")
    none = baseline_scores(ROWS, np.full(4, -1), np.array([0]), RNG)["clicks_of_categories"]
    assert none.tolist() == scores("clicks_6h"), "an article without a category matches nothing"


def test_the_newest_stand_first_and_what_has_no_age_last():
    assert np.argsort(-np.array(scores("newest"))).tolist() == [2, 1, 0, 3]
    published = ROWS.copy()
    published[3, COUNTERS.index("age_hours")] = 0.5  # never shown, but published
    assert baseline_scores(published, CATEGORIES, NONE, RNG)["newest"].argmax() == 3


def test_every_rule_gives_a_score_to_every_article_of_any_pool():
    for counters, categories in ((ROWS, CATEGORIES), (ROWS[:0], NONE)):
        found = baseline_scores(counters, categories, np.array([1]), RNG)
        assert tuple(found) == BASELINES
        assert all(values.shape == (len(counters),) for values in found.values())


def test_chance_is_the_same_for_the_same_seed_and_finds_its_share():
    counters = np.zeros((100, 9), np.float32)

    def chance(generator: np.random.Generator) -> np.ndarray:
        return baseline_scores(counters, np.zeros(100, int), NONE, generator)["chance"]

    first, again = (chance(np.random.default_rng(3)) for _ in range(2))
    assert first.tolist() == again.tolist()
    generator = np.random.default_rng(4)
    ranks = [ranks_of(chance(generator), np.array([5]), NONE) for _ in range(4000)]
    assert rank_metrics(ranks)["recall@10"].mean() == pytest.approx(0.1, abs=0.015)


def test_ranks_count_what_is_better_without_what_was_read():
    values = np.array([5.0, 4.0, 3.0, 2.0])
    assert ranks_of(values, np.array([3, 0]), NONE).tolist() == [4, 1]
    assert ranks_of(values, np.array([3]), np.array([0, 1])).tolist() == [2]
    assert ranks_of(values, np.array([1]), np.array([0, 1])).tolist() == [1], "clicked again"
    assert ranks_of(values, NONE, NONE).tolist() == []


def test_tied_articles_share_the_mean_of_their_ranks():
    values = np.array([1.0, 0.0, 0.0, 0.0, -np.inf, -np.inf])
    assert ranks_of(values, np.array([1, 2]), NONE).tolist() == [3, 3]
    assert ranks_of(values, np.array([1]), np.array([2])).tolist() == [2.5]
    assert ranks_of(values, np.array([4]), NONE).tolist() == [5.5]
    assert ranks_of(np.zeros(99), np.array([7]), NONE).tolist() == [50], "a rule that knows nothing"


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        ranks_of(np.array([np.nan, 1]), np.array([1]), NONE)
