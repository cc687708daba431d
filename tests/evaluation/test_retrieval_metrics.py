"""recall@k of the two towers over the whole pool."""

import numpy as np
import pytest

from genre_tf.evaluation.retrieval_metrics import click_ranks, recall

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
    monkeypatch.setattr("genre_tf.evaluation.retrieval_metrics._BLOCK_READERS", 3)
    assert [row.tolist() for row in click_ranks(users, pool, clicked, positions(*[[]] * 7))] == [
        row.tolist() for row in whole
    ]


def test_recall_is_the_share_of_an_impressions_clicks_found_then_averaged() -> None:
    ranks = [np.array([1, 20]), np.array([5]), np.array([], np.int64)]
    assert recall(ranks, (1, 10, 20)) == {"recall@1": 0.25, "recall@10": 0.75, "recall@20": 1.0}
    assert recall([], (10,)) == {"recall@10": None}
