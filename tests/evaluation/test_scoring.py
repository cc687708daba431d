"""Batched scores equal those of each impression alone, whatever the lengths, for any model of the kind."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.articles import ArticleTable, Impression, Split
from genre_tf.data.click_log import block_of
from genre_tf.data.columns import ImpressionColumns, ImpressionExample
from genre_tf.data.counters import COUNTERS
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation import scored_log
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.scoring import RankerScorer, TwoTowerScorer, write_predictions

VECTORS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
VECTORS[0] = 0


class SumTower:
    """The reader is the sum of the history, or ones without history."""

    def user_vector(self, history: Any, mask: Any) -> Any:
        total = tf.reduce_sum(history * tf.cast(mask, tf.float32)[:, :, None], axis=1)
        return tf.where(tf.reduce_any(mask, axis=1)[:, None], total, 1.0)

    def queries(self, vectors: Any, histories: Any) -> Any:
        readers = [vectors[rows].sum(axis=0) if len(rows) else np.ones(4, np.float32) for rows in histories]
        return np.pad(np.reshape(readers, (-1, 4)), [[0, 0], [0, 1]])  # and the weight of the moment


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


TIME = datetime(2019, 11, 15)


def log(*impressions: tuple[str, int]) -> ScoredLog:
    rows = [Impression(name, "U1", TIME, (), ("N",) * count, None) for name, count in impressions]
    return ScoredLog(
        Split("test", {}, rows, []),
        ArticleTable(),
        ImpressionColumns([block_of(rows, ArticleTable(), 50)]),
        50,
    )


def later_is_better(examples: Sequence[ImpressionExample]) -> list[np.ndarray]:
    return [np.arange(len(example.candidates), dtype=np.float32) for example in examples]


def test_one_line_an_impression_in_the_order_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored_log, "BLOCK_IMPRESSIONS", 1)
    written = write_predictions(
        tmp_path / "prediction.txt", log(("7", 3), ("5", 1), ("6", 2)), later_is_better
    )
    assert written == 3
    assert (tmp_path / "prediction.txt").read_bytes() == b"7 [3,2,1]\n5 [1]\n6 [2,1]\n"


def test_a_failure_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    file = tmp_path / "prediction.txt"
    file.write_text("old")

    def failing(examples: Sequence[ImpressionExample]) -> list[np.ndarray]:
        raise FailureError("no")

    with pytest.raises(FailureError):
        write_predictions(file, log(("1", 2)), failing)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_or_a_missing_folder_as_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_predictions(tmp_path, log(("1", 2)), later_is_better)
    with pytest.raises(InputError, match="create it first"):
        write_predictions(tmp_path / "a" / "b", log(("1", 2)), later_is_better)
