"""What may not be written."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from transformers.generation.logits_process import (
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from genre_tf.generation.constraints import NOTHING, Constraints

torch = pytest.importorskip("torch")


def applied(
    constraints: Constraints, logits: np.ndarray, written: list[list[int]], **other: Any
) -> np.ndarray:
    filler = [NOTHING] * (constraints.no_repeat_ngram + 1)
    settings = {"end_id": 0, "forbidden": tf.fill([len(written), 1], NOTHING)} | other
    rows = tf.constant([filler + row for row in written], tf.int32)
    step = tf.constant(len(written[0]))
    return constraints.apply(tf.constant(logits), rows, step, **settings).numpy()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeated_ngram_forbids_what_transformers_forbids(size: int) -> None:
    random = np.random.default_rng(size)
    written = random.integers(1, 5, (20, 12))
    logits = random.normal(size=(20, 6)).astype(np.float32)
    expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor(written), torch.tensor(logits)).numpy()
    ours = applied(Constraints(no_repeat_ngram=size, min_tokens=0), logits, written.tolist())
    np.testing.assert_array_equal(ours < -1e8, np.isneginf(expected))
    np.testing.assert_array_equal(ours[ours > -1e8], expected[~np.isneginf(expected)])


def test_repetition_penalty_is_that_of_transformers() -> None:
    random = np.random.default_rng(0)
    written = random.integers(0, 6, (10, 4))
    logits = random.normal(size=(10, 6)).astype(np.float32)
    expected = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor(written), torch.tensor(logits)).numpy()
    ours = applied(Constraints(repetition_penalty=1.5, min_tokens=0), logits, written.tolist())
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_the_end_waits_for_the_minimum() -> None:
    logits = np.zeros((1, 3), np.float32)
    assert applied(Constraints(min_tokens=3), logits, [[1, 2]])[0, 0] < -1e8
    assert applied(Constraints(min_tokens=3), logits, [[1, 2, 1]])[0, 0] == 0


def test_forbidden_ids_are_forbidden_row_by_row() -> None:
    logits = np.zeros((2, 4), np.float32)
    ours = applied(
        Constraints(min_tokens=0), logits, [[1], [1]], forbidden=tf.constant([[2, 3], [NOTHING, 2]])
    )
    np.testing.assert_array_equal(ours < -1e8, [[False, False, True, True], [False, False, True, False]])


def test_nothing_written_yet_changes_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    everything = Constraints(min_tokens=0, repetition_penalty=2.0, no_repeat_ngram=2)
    np.testing.assert_array_equal(applied(everything, logits, [[], []]), logits)
