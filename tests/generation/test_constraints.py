"""What may not be written."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from transformers.generation.logits_process import (
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from genre_tf.generation.constraints import NOTHING, Constraints, banned, force, missing

torch = pytest.importorskip("torch")


def applied(
    constraints: Constraints, logits: np.ndarray, written: list[list[int]], **other: Any
) -> np.ndarray:
    filler = [NOTHING] * constraints.filler
    rows = tf.constant([filler + row for row in written], tf.int32)
    step = tf.constant(len(written[0]))
    return constraints.apply(tf.constant(logits), rows, step, end_id=0, **other).numpy()


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
    ban = banned(tf.constant([[2, 3], [NOTHING, 2]]), 4)
    ours = applied(Constraints(min_tokens=0), logits, [[1], [1]], ban=ban)
    np.testing.assert_array_equal(ours < -1e8, [[False, False, True, True], [False, False, True, False]])


def test_nothing_written_yet_changes_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    everything = Constraints(min_tokens=0, repetition_penalty=2.0, no_repeat_ngram=2)
    np.testing.assert_array_equal(applied(everything, logits, [[], []]), logits)


def test_a_forbidden_word_loses_its_last_token_where_the_others_stand() -> None:
    words = ((4,), (1, 2), (3, 1, 2))
    logits = np.zeros((3, 6), np.float32)
    ours = applied(Constraints(min_tokens=0, forbidden_words=words), logits, [[5, 1], [3, 1], [2, 3]])
    refused = [np.flatnonzero(row < -1e8).tolist() for row in ours]
    assert refused == [[2, 4], [2, 4], [4]]
    expected = NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=0)
    written = torch.tensor([[5, 1], [3, 1], [2, 3]])
    assert (np.isneginf(expected(written, torch.tensor(logits)).numpy()) == (ours < -1e8)).all()


def test_an_empty_forbidden_word_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Constraints(forbidden_words=((1,), ()))


def test_nothing_asked_leaves_the_very_tensor() -> None:
    logits = tf.zeros([1, 3])
    assert Constraints(min_tokens=0).apply(logits, tf.fill([1, 1], NOTHING), 0, end_id=0) is logits


def test_missing_words_are_counted_and_the_one_begun_furthest_goes_on() -> None:
    words = tf.constant([[[1, 2, 3], [4, NOTHING, NOTHING], [NOTHING] * 3]] * 4)
    written = tf.constant([[-1, -1, -1, 9], [9, 1, 2, 3], [4, 9, 1, 2], [4, 1, 2, 3]])
    lack = missing(words, written)
    assert lack.needed.numpy().tolist() == [4, 1, 3, 0]
    assert lack.next_id.numpy().tolist()[:3] == [1, 4, 3]


def test_required_words_hold_the_end_back_and_fill_the_last_room() -> None:
    words = tf.constant([[[1, 2]]] * 4)
    logits = tf.constant([[3.0, 1.0, 1.0, 2.0]] * 4)
    lack = missing(words, tf.constant([[-1, 3], [-1, 3], [1, 2], [3, 1]]))
    ours = force(logits, lack, tf.constant([5, 2, 1, 2]), end_id=0).numpy()
    assert ours[0, 0] < -1e8 and ours[0, 1:].tolist() == [1, 1, 2]
    assert (ours[1] > -1e8).tolist() == [False, True, False, False]
    assert ours[2].tolist() == logits[2].numpy().tolist()
    # Begun, and no room to begin again: any other token would lose the word.
    assert (ours[3] > -1e8).tolist() == [False, False, True, False]
