"""Choosing a token: greedy, temperature, top-k, top-p, and seeds per row."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.decode import Greedy, Sample, uniforms

LOGITS = np.log(np.array([[0.1, 0.4, 0.2, 0.3]], np.float32))


def draws(strategy: Sample, count: int = 4000) -> np.ndarray:
    uniform = (np.arange(count, dtype=np.float32) + 0.5) / count
    tokens = strategy.choose(tf.constant(np.repeat(LOGITS, count, axis=0)), tf.constant(uniform))
    return np.bincount(tokens.numpy(), minlength=4) / count


def test_greedy_takes_the_likeliest_and_of_equals_the_first() -> None:
    logits = tf.constant([[0.0, 2.0, 1.0], [3.0, 1.0, 3.0]])
    assert Greedy().choose(logits, tf.zeros([2])).numpy().tolist() == [1, 0]


def test_frequencies_follow_the_probabilities() -> None:
    np.testing.assert_allclose(
        draws(Sample(temperature=1.0, top_k=0, top_p=1.0)), [0.1, 0.4, 0.2, 0.3], atol=1e-3
    )


def test_low_temperature_sharpens() -> None:
    squares = np.array([0.01, 0.16, 0.04, 0.09])
    np.testing.assert_allclose(
        draws(Sample(temperature=0.5, top_k=0, top_p=1.0)), squares / squares.sum(), atol=1e-3
    )


def test_top_k_keeps_so_many_and_their_proportions() -> None:
    np.testing.assert_allclose(
        draws(Sample(temperature=1.0, top_k=2, top_p=1.0)), [0, 4 / 7, 0, 3 / 7], atol=1e-3
    )


def test_top_p_keeps_the_fewest_that_reach_the_share() -> None:
    np.testing.assert_allclose(
        draws(Sample(temperature=1.0, top_k=0, top_p=0.5)), [0, 4 / 7, 0, 3 / 7], atol=1e-3
    )
    np.testing.assert_allclose(draws(Sample(temperature=1.0, top_k=0, top_p=0.01)), [0, 1, 0, 0], atol=1e-3)


@pytest.mark.parametrize("uniform", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_the_ends_of_the_interval_never_give_an_impossible_token(uniform: float) -> None:
    logits = tf.constant([[-1e9, 0.0, 0.0, -1e9]])
    for strategy in (Sample(top_k=0, top_p=1.0), Sample(top_k=3, top_p=0.9)):
        assert int(strategy.choose(logits, tf.constant([uniform]))[0]) in (1, 2)


def test_a_row_of_numbers_depends_on_its_own_seed_alone() -> None:
    together = uniforms(tf.constant([5, 6, 5], tf.int64), 2, 3).numpy()
    alone = uniforms(tf.constant([6], tf.int64), 2, 3).numpy()
    np.testing.assert_array_equal(together[1], alone[0])
    np.testing.assert_array_equal(together[0], together[2])
    assert len(np.unique(together[:2])) == 12


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            Sample(**wrong)
