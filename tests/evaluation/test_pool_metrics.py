"""Lists out of the whole pool, by small lists whose numbers can be worked out by hand."""

from typing import Any

import numpy as np
import pytest

from genre_tf.data.counters import COUNTERS
from genre_tf.evaluation.click_model import calibration
from genre_tf.evaluation.pool_metrics import (
    BASELINES,
    baseline_scores,
    coverage,
    list_metrics,
    list_qualities,
    rank_metrics,
    ranks_of,
)

RANK_METRICS = {"recall@10", "recall@50", "recall@100", "recall@300", "ndcg@10", "mrr"}


def rows(*each: list[int]) -> list[np.ndarray]:
    return [np.array(row, np.int64) for row in each]


def test_a_click_at_the_third_place_and_one_that_was_not_found():
    found = list_metrics(np.array([[7, 5, 3, -1]]), rows([3, 9]))
    assert set(found) == RANK_METRICS
    assert found["recall@10"].tolist() == [0.5]
    assert found["recall@300"].tolist() == [0.5], "a cutoff beyond the list counts what there is"
    assert found["mrr"][0] == pytest.approx((1 / 3 + 0) / 2)
    assert found["ndcg@10"][0] == pytest.approx((1 / 2) / (1 + 1 / np.log2(3)))
    assert all(values.dtype == np.float64 and values.shape == (1,) for values in found.values())


def test_cutoffs_count_the_places_up_to_k():
    found = list_metrics(np.arange(400)[None].repeat(2, 0), rows([9, 10, 99, 299], [300, 350]))
    assert [found[f"recall@{k}"].tolist() for k in (10, 50, 100, 300)] == [
        [0.25, 0.0],
        [0.5, 0.0],
        [0.75, 0.0],
        [1.0, 0.0],
    ]
    assert found["ndcg@10"][1] == 0
    assert found["mrr"][1] == pytest.approx((1 / 301 + 1 / 351) / 2)


def test_more_clicks_than_places_can_still_be_ordered_ideally():
    assert list_metrics(np.arange(10)[None], rows(list(range(12))))["ndcg@10"][0] == pytest.approx(1)


def test_an_empty_list_finds_nothing_and_a_click_outside_the_pool_is_no_empty_place():
    for lists in (np.full((2, 5), -1), np.empty((2, 0), np.int64)):
        found = list_metrics(lists, rows([1], [-1]))
        assert all(values.tolist() == [0, 0] for values in found.values())


def test_an_impression_without_a_click_is_undefined_and_no_impressions_are_none():
    found = list_metrics(np.array([[1, 2], [1, 2]]), rows([], [1]))
    assert all(np.isnan(values[0]) and values[1] == 1 for values in found.values())
    assert all(values.shape == (0,) for values in list_metrics(np.empty((0, 5), np.int64), []).values())


def test_ranks_of_the_whole_pool_give_the_same_numbers_as_its_list_and_may_be_halves():
    order = np.random.default_rng(0).permutation(500)
    clicked = rows([3, 77, 401])
    ranks = [np.argsort(order)[clicked[0]] + 1]
    by_list, by_rank = list_metrics(order[None], clicked), rank_metrics(ranks)
    assert {name: values.tolist() for name, values in by_list.items()} == {
        name: values.tolist() for name, values in by_rank.items()
    }
    tied = rank_metrics([np.array([10.5]), np.array([1.5])])
    assert tied["recall@10"].tolist() == [0, 1]
    assert tied["ndcg@10"].tolist() == [0, 1 / np.log2(2.5)]


def test_lists_of_other_impressions_are_refused():
    with pytest.raises(ValueError, match="2 impressions"):
        list_metrics(np.zeros((1, 3), np.int64), rows([1], [2]))


def quality(name: str, lists: np.ndarray, **given: Any) -> np.ndarray:
    """One quality of lists of at most 50 articles, about which nothing else is known."""
    unknown: dict[str, Any] = {
        "vectors": np.zeros((50, 2), np.float32),
        "category_of": np.zeros(50, int),
        "views": np.zeros(lists.shape),
        "all_views": np.zeros(len(lists)),
        "pool_articles": np.full(len(lists), 50),
        "age_hours": np.full(lists.shape, np.nan),
    }
    found = list_qualities(lists, **{**unknown, **given})
    assert set(found) == {"diversity", "category_diversity", "novelty", "fresh"}
    assert all(values.shape == (len(lists),) for values in found.values())
    return found[name]


def test_diversity_is_the_mean_distance_of_pairs_of_titles():
    vectors = np.array([[2, 0], [0, 3], [-1, 0], [1, 0], [0, 0]], np.float32)
    lists = np.array([[0, 1, -1], [0, 2, -1], [0, 3, -1], [0, 1, 2], [0, 4, -1], [0, -1, -1], [-1, -1, -1]])
    found = quality("diversity", lists, vectors=vectors)
    assert found[:5] == pytest.approx([1, 2, 0, (1 + 2 + 1) / 3, 1])
    assert np.isnan(found[5:]).all(), "one article has no pair"


def test_diversity_is_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(1)
    vectors, lists = generator.normal(size=(30, 4)), generator.integers(-1, 30, (7, 12))
    whole = quality("diversity", lists, vectors=vectors)
    monkeypatch.setattr("genre_tf.evaluation.pool_metrics._BLOCK_LISTS", 3)
    assert quality("diversity", lists, vectors=vectors) == pytest.approx(whole)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first = [at for at in lists[0, :10] if at >= 0]
    pairs = [1 - unit[a] @ unit[b] for place, a in enumerate(first) for b in first[:place]]
    assert whole[0] == pytest.approx(np.mean(pairs))


def test_category_diversity_is_the_share_of_pairs_that_differ():
    lists = np.array([[0, 1, 2], [0, 1, -1], [0, -1, -1]])
    found = quality("category_diversity", lists, category_of=np.array([4, 4, 5]))
    assert found[:2].tolist() == [pytest.approx(2 / 3), 0]
    assert np.isnan(found[2])


def test_novelty_is_the_bits_of_an_articles_share_of_views():
    views = np.array([[3.0, 0.0, np.nan], [np.nan] * 3])
    lists, pool = np.array([[0, 1, -1], [-1, -1, -1]]), np.array([4, 4])
    found = quality("novelty", lists, views=views, all_views=np.array([12.0, 12.0]), pool_articles=pool)
    assert found[0] == pytest.approx((np.log2(16 / 4) + np.log2(16 / 1)) / 2)
    assert np.isnan(found[1])


def test_fresh_is_younger_than_a_day_and_only_the_first_ten_places_count():
    lists = np.array([[0, 1, 2, -1]])
    found = quality("fresh", lists, age_hours=np.array([[1.0, 24.0, np.nan, 0.0]]))
    assert found.tolist() == [pytest.approx(1 / 3)]
    long = np.arange(20)[None]
    assert quality("fresh", long, age_hours=np.where(long < 10, 0.0, 99.0)).tolist() == [1]
    assert np.isnan(quality("fresh", np.full((1, 3), -1)))


def test_coverage_counts_what_any_list_shows_first():
    lists = np.array([[0, 1, -1], [1, 2, -1]])
    assert coverage(lists, 6) == 0.5
    assert coverage(np.arange(20)[None], 20) == 0.5, "the first ten of each"
    assert coverage(np.full((2, 3), -1), 6) == 0
    assert coverage(lists, 0) is None


def test_calibration_by_hand():
    scores, clicked = np.array([0.8, 0.2, 0.4, 0.2]), np.array([True, False, False, False])
    found = calibration(scores, clicked, bins=2)
    assert found["mean_score"] == pytest.approx(0.4) and found["click_rate"] == 0.25
    assert found["ratio"] == pytest.approx(1.6)
    assert found["brier"] == pytest.approx((0.04 + 0.04 + 0.16 + 0.04) / 4)
    assert found["brier_of_click_rate"] == pytest.approx(0.25 * 0.75)
    low, high = found["bins"]
    assert (low["mean_score"], low["click_rate"], low["count"]) == (pytest.approx(0.2), 0, 2)
    assert (high["mean_score"], high["click_rate"], high["count"]) == (pytest.approx(0.6), 0.5, 2)
    assert high["low"] < 0.5 < high["high"]


def test_calibration_of_nothing_and_without_a_click():
    assert calibration(np.empty(0), np.empty(0, bool))["bins"] == []
    assert calibration(np.empty(0), np.empty(0, bool))["brier"] is None
    found = calibration(np.array([0.1]), np.array([False]))
    assert found["ratio"] is None and len(found["bins"]) == 1


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
