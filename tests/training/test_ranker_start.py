"""The weights that the ranker starts with."""

import numpy as np
import pytest

from genre_tf.training.ranker_start import logistic_regression


def test_logistic_regression_finds_the_weights_behind_the_clicks():
    random = np.random.default_rng(0)
    features = random.normal(size=(40_000, 3))
    probability = 1 / (1 + np.exp(-(features @ [1.0, -0.5, 0.0] - 2.0)))
    weights, bias = logistic_regression(features, random.random(40_000) < probability)
    np.testing.assert_allclose(weights, [1.0, -0.5, 0.0], atol=0.05)
    assert bias == pytest.approx(-2.0, abs=0.05)


def test_the_gradient_is_zero_at_what_it_finds():
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(500, 4)), random.random(500) < 0.3
    weights, bias = logistic_regression(features, labels)
    miss = 1 / (1 + np.exp(-(features @ weights + bias))) - labels
    np.testing.assert_allclose(features.T @ miss + 10.0 * weights, 0.0, atol=1e-3)


def test_a_row_that_counts_two_is_two_rows():
    random = np.random.default_rng(4)
    features, labels = random.normal(size=(200, 2)), random.random(200) < 0.4
    counted = 1.0 + labels
    weights, bias = logistic_regression(features, labels, counted)
    twice = [np.concatenate([column, column[labels]]) for column in (features, labels)]
    expected, expected_bias = logistic_regression(*twice)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert bias == pytest.approx(expected_bias, rel=1e-5)


@pytest.mark.parametrize("labels", [np.zeros(50), np.ones(50)])
def test_labels_of_one_kind_give_finite_weights(labels):
    weights, bias = logistic_regression(np.random.default_rng(2).normal(size=(50, 3)), labels)
    assert np.isfinite(weights).all() and np.isfinite(bias)


def test_equal_and_empty_columns_share_their_weight():
    random = np.random.default_rng(3)
    column = random.normal(size=(2000, 1))
    features = np.concatenate([column, column, np.zeros((2000, 1))], 1)
    weights, _ = logistic_regression(features, random.random(2000) < 1 / (1 + np.exp(-column[:, 0])))
    assert weights[0] == pytest.approx(weights[1]) and weights[2] == 0.0
