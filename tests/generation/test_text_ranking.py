"""The order in which written texts are offered."""

from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.generation.ranking import RankingWeights, Written, rank


def ranked(texts: list[str], interest: list[float], **other: Any) -> Written:
    count = len(texts)
    columns = {"log_probability": [-1.0] * count, "grounding": [1.0] * count, "safe": [True] * count} | other
    written = Written(
        tf.constant([texts]), tf.constant([interest]), **{k: tf.constant([v]) for k, v in columns.items()}
    )
    return rank(written, RankingWeights())


def order(written: Written) -> list[str]:
    return [text.decode() for text in written.text[0].numpy()]


def test_interest_decides_among_equals() -> None:
    assert order(ranked(["a", "b", "c"], [0.1, 0.9, 0.5])) == ["b", "c", "a"]


def test_grounding_and_log_probability_count_too() -> None:
    assert order(ranked(["a", "b"], [0.6, 0.5], grounding=[0.0, 1.0])) == ["b", "a"]
    assert order(ranked(["a", "b"], [0.5, 0.5], log_probability=[-4.0, -2.0])) == ["b", "a"]


def test_unsafe_is_last_behind_empty_behind_repeated() -> None:
    texts = ["Bad", "", "Same, text!", "same text", "poor"]
    result = ranked(texts, [0.99, 0.98, 0.97, 0.96, 0.0], safe=[False, True, True, True, True])
    assert order(result) == ["Same, text!", "poor", "same text", "", "Bad"]
    assert result.safe[0].numpy().tolist() == [True, True, True, True, False]


def test_of_equal_texts_the_better_stays_in_front() -> None:
    result = ranked(["same", "SAME", "other"], [0.2, 0.8, 0.5])
    assert order(result) == ["SAME", "other", "same"]


def test_numbers_that_are_not_finite_become_zero() -> None:
    result = ranked(["a", "b"], [float("nan"), 0.5], log_probability=[float("-inf"), -1.0])
    assert order(result) == ["b", "a"]
    for column in (result.interest, result.log_probability):
        assert np.isfinite(column.numpy()).all()


def test_rows_are_sorted_apart() -> None:
    written = Written(
        tf.constant([["a", "b"], ["c", "d"]]),
        tf.constant([[0.1, 0.9], [0.9, 0.1]]),
        -tf.ones([2, 2]),
        tf.ones([2, 2]),
        tf.ones([2, 2], tf.bool),
    )
    assert rank(written, RankingWeights()).text.numpy().tolist() == [[b"b", b"a"], [b"c", b"d"]]
