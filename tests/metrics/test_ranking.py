"""Ranking metrics against hand results, scikit-learn and MIND's own evaluator."""

import numpy as np
import pytest

from genre_tf.metrics.ranking import METRICS, click_ranks, mean_metrics, rank_scores, ranking_metrics, recall


def one(scores: list[float], clicked: list[int]) -> dict[str, float]:
    found = ranking_metrics([np.array(scores)], [np.array(clicked, bool)])
    return {name: float(values[0]) for name, values in found.items()}


def mind_evaluator(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """MIND's `evaluate.py`, word for word, for impressions without ties."""
    ordered = labels[np.argsort(scores)[::-1]]

    def dcg(values: np.ndarray, cutoff: int) -> float:
        return float(np.sum((2.0 ** values[:cutoff] - 1) / np.log2(np.arange(len(values[:cutoff])) + 2)))

    ideal = np.sort(labels)[::-1]
    return {
        "mrr": float(np.sum(ordered / (np.arange(len(ordered)) + 1)) / np.sum(labels)),
        "ndcg@5": dcg(ordered, 5) / dcg(ideal, 5),
        "ndcg@10": dcg(ordered, 10) / dcg(ideal, 10),
    }


def test_one_click_in_second_place_gives_the_hand_result() -> None:
    found = one([0.1, 0.7, 0.9, 0.3], [0, 1, 0, 0])
    assert found["auc"] == pytest.approx(2 / 3)
    assert found["mrr"] == pytest.approx(1 / 2)
    assert found["ndcg@5"] == pytest.approx(1 / np.log2(3))


def test_mrr_is_the_mean_over_all_clicked_articles_not_the_first() -> None:
    assert one([4, 3, 2, 1], [1, 0, 1, 0])["mrr"] == pytest.approx((1 + 1 / 3) / 2)


def test_ndcg_cuts_off_after_five_and_ten() -> None:
    scores, clicked = [float(-position) for position in range(12)], [0] * 12
    clicked[5] = 1
    assert one(scores, clicked)["ndcg@5"] == 0
    assert one(scores, clicked)["ndcg@10"] == pytest.approx(1 / np.log2(7))


def test_equal_scores_are_worth_their_mean_wherever_the_log_lists_the_click() -> None:
    first, last = one([1, 1, 1], [1, 0, 0]), one([1, 1, 1], [0, 0, 1])
    assert first == last
    assert first["auc"] == 0.5
    assert first["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_ties_are_the_expectation_over_random_orders() -> None:
    scores, clicked = np.array([2.0, 1, 1, 1, 0, 0]), np.array([0, 1, 0, 1, 0, 1], bool)
    generator = np.random.default_rng(3)
    broken = [scores + generator.random(6) * 0.5 for _ in range(20_000)]
    simulated = ranking_metrics(broken, [clicked] * len(broken))
    exact = ranking_metrics([scores], [clicked])
    for name in METRICS:
        assert exact[name][0] == pytest.approx(simulated[name].mean(), abs=0.005)


def test_auc_equals_scikit_learn_with_and_without_ties() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    scores = [generator.integers(0, 6, generator.integers(2, 60)).astype(np.float32) for _ in range(200)]
    clicked = [np.arange(len(row)) % len(row) < generator.integers(1, len(row)) for row in scores]
    clicked = [generator.permutation(row) for row in clicked]
    ours = ranking_metrics(scores, clicked)["auc"]
    theirs = [metrics.roc_auc_score(hits, row) for hits, row in zip(clicked, scores, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_all_metrics_equal_minds_evaluator_over_more_than_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genre_tf.metrics.ranking._BLOCK_IMPRESSIONS", 16)
    generator = np.random.default_rng(1)
    scores = [generator.normal(size=generator.integers(2, 40)) for _ in range(50)]
    clicked = [np.arange(len(row)) < max(1, len(row) // 4) for row in scores]
    ours = ranking_metrics(scores, clicked)
    for at, (row, hits) in enumerate(zip(scores, clicked, strict=True)):
        for name, value in mind_evaluator(hits.astype(float), row).items():
            assert ours[name][at] == pytest.approx(value, abs=1e-12)


def test_impressions_without_a_click_or_without_a_miss_are_left_out_of_the_mean() -> None:
    found = ranking_metrics(
        [np.array([1.0, 2]), np.array([1.0, 2]), np.array([1.0, 2]), np.array([])],
        [np.array([False, True]), np.array([False, False]), np.array([True, True]), np.array([], bool)],
    )
    assert np.isnan(found["auc"]).tolist() == [False, True, True, True]
    assert mean_metrics(found)["auc"] == 1
    assert mean_metrics(found, np.array([False, True, True, True])) == dict.fromkeys(METRICS)


def test_a_score_that_is_not_a_number_is_refused_with_its_impression() -> None:
    with pytest.raises(ValueError, match="impression 1 has a score"):
        ranking_metrics([np.ones(2), np.array([1, np.nan])], [np.array([True, False])] * 2)


def test_scores_of_another_length_than_the_clicks_are_refused() -> None:
    with pytest.raises(ValueError, match="impression 0: 3 scores for 2"):
        ranking_metrics([np.ones(3)], [np.array([True, False])])


def test_no_impressions_give_no_metrics() -> None:
    assert mean_metrics(ranking_metrics([], [])) == dict.fromkeys(METRICS)


def test_ranks_start_at_one_for_the_best_and_ties_keep_the_order_of_the_log() -> None:
    assert rank_scores(np.array([0.2, 0.9, 0.2, 0.5])).tolist() == [3, 1, 4, 2]


POOL = np.array([[1, 0], [0.9, 0], [0.8, 0], [-1, 0]], np.float32)
READER = np.array([[1, 0]], np.float32)


def positions(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row, np.int32) for row in rows]


def test_the_rank_counts_the_better_articles_of_the_whole_pool() -> None:
    assert click_ranks(READER, POOL, positions([2, 0]), positions([]))[0].tolist() == [3, 1]


def test_articles_already_read_are_taken_out_but_not_the_clicked_one() -> None:
    assert click_ranks(READER, POOL, positions([2]), positions([0, 1, 2]))[0].tolist() == [1]


def test_a_model_that_scores_everything_alike_finds_nothing() -> None:
    ranks = click_ranks(np.zeros((1, 2), np.float32), POOL, positions([0]), positions([]))
    assert ranks[0].tolist() == [4]


def test_ranks_are_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    users, pool = (generator.normal(size=(rows, 4)).astype(np.float32) for rows in (7, 30))
    clicked = [generator.choice(30, 2, replace=False) for _ in range(7)]
    whole = click_ranks(users, pool, clicked, positions(*[[]] * 7))
    monkeypatch.setattr("genre_tf.metrics.ranking._BLOCK_READERS", 3)
    assert [row.tolist() for row in click_ranks(users, pool, clicked, positions(*[[]] * 7))] == [
        row.tolist() for row in whole
    ]


def test_recall_is_the_share_of_an_impressions_clicks_found_then_averaged() -> None:
    ranks = [np.array([1, 20]), np.array([5]), np.array([], np.int64)]
    assert recall(ranks, (1, 10, 20)) == {"recall@1": 0.25, "recall@10": 0.75, "recall@20": 1.0}
    assert recall([], (10,)) == {"recall@10": None}
