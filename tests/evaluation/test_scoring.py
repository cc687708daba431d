"""Batched scores equal those of each impression alone, whatever the lengths, for any model of the kind."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import COUNTERS
from genre_tf.evaluation.scoring import RankerScorer, TwoTowerScorer

VECTORS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
VECTORS[0] = 0


class SumTower:
    """The reader is the sum of the history, or ones without history."""

    def user_vector(self, history: Any, mask: Any) -> Any:
        total = tf.reduce_sum(history * tf.cast(mask, tf.float32)[:, :, None], axis=1)
        return tf.where(tf.reduce_any(mask, axis=1)[:, None], total, 1.0)


class SumRanker(SumTower):
    """The same reader, and the clicks of the candidate where counters are given; NaN in padding."""

    def click_logits(
        self, history: Any, mask: Any, candidates: Any, candidate_mask: Any, counters: Any
    ) -> Any:
        logits = tf.einsum("bd,bcd->bc", self.user_vector(history, mask), candidates)
        if counters is not None:
            logits += counters[:, :, 0]
        return tf.where(candidate_mask, logits, np.nan)


def log_of(count: int) -> list[ImpressionExample]:
    generator = np.random.default_rng(1)
    examples = []
    for number in range(count):
        history = generator.integers(1, 20, generator.integers(0, 6)).astype(np.int32)
        candidates = generator.integers(0, 20, generator.integers(1, 9)).astype(np.int32)
        counters = generator.random((len(candidates), len(COUNTERS))).astype(np.float32)
        examples.append(ImpressionExample(number, "U", 0.0, history, candidates, counters[:, 0], counters))
    return examples


def expected(example: ImpressionExample, with_counters: bool) -> np.ndarray:
    reader = VECTORS[example.history].sum(axis=0) if len(example.history) else np.ones(4, np.float32)
    return VECTORS[example.candidates] @ reader + example.counters[:, 0] * with_counters


@pytest.mark.parametrize(
    ("scorer", "with_counters"),
    [
        (TwoTowerScorer(SumTower(), VECTORS), False),  # type: ignore[arg-type]
        (RankerScorer(SumRanker(), VECTORS, with_counters=False), False),  # type: ignore[arg-type]
        (RankerScorer(SumRanker(), VECTORS, with_counters=True), True),  # type: ignore[arg-type]
    ],
    ids=["two_tower", "ranker", "ranker_counters"],
)
def test_scores_are_those_of_each_impression_alone_in_the_order_of_the_log(
    scorer: Any, with_counters: bool
) -> None:
    examples = log_of(150)  # more than two batches
    for scores, example in zip(scorer(examples), examples, strict=True):
        np.testing.assert_allclose(scores, expected(example, with_counters), rtol=1e-4, atol=1e-5)


def test_a_log_of_readers_without_history_is_scored() -> None:
    examples = [example for example in log_of(60) if not len(example.history)]
    scores = TwoTowerScorer(SumTower(), VECTORS)(examples)  # type: ignore[arg-type]
    assert len(scores) == len(examples) > 0
    assert TwoTowerScorer(SumTower(), VECTORS)([]) == []  # type: ignore[arg-type]
