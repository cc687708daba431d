"""Exact weights of linear models: a choice among alternatives, and each candidate by itself."""

import numpy as np
import pytest

from genre_tf.training.regression import Choices, logistic_regression, softmax_regression

WEIGHTS = np.array([1.0, -0.5, 0.0])


def simulated(random, clicks, candidates, weights=WEIGHTS):
    """Readers who choose by a softmax: features [clicks, candidates, F], the chosen one first."""
    features = random.normal(size=(clicks, candidates, len(weights)))
    # The greatest of logits with Gumbel noise is a draw of the softmax.
    chosen = (features @ weights + random.gumbel(size=(clicks, candidates))).argmax(1)
    places = np.arange(candidates) + np.zeros((clicks, 1), int)
    places[np.arange(clicks), chosen], places[:, 0] = 0, chosen
    return np.take_along_axis(features, places[..., None], axis=1)


def choices_of(features, probability=None):
    clicks, candidates, width = features.shape
    probability = np.ones((clicks, candidates)) if probability is None else probability
    return Choices(features.reshape(-1, width), np.full(clicks, candidates), probability.ravel())


def gradient_at(choices, weights):
    """Of the log-likelihood, summed choice by choice."""
    found, start = np.zeros(len(weights)), 0
    for size in choices.sizes:
        features, probability = (
            each[start : start + size] for each in (choices.features, choices.probability)
        )
        chances = np.exp(features @ weights) / probability
        found += features[0] - chances @ features / chances.sum()
        start += size
    return found


def test_it_finds_the_weights_behind_the_choices():
    features = simulated(np.random.default_rng(0), 8_000, 12)
    np.testing.assert_allclose(softmax_regression(choices_of(features)), WEIGHTS, atol=0.05)


def test_weights_are_for_the_features_as_they_are_whatever_their_scale_and_mean():
    features = simulated(np.random.default_rng(1), 4_000, 8)
    plain = softmax_regression(choices_of(features))
    scales = np.array([100.0, 0.01, 1.0])
    scaled = softmax_regression(choices_of(features * scales + 7.0))
    np.testing.assert_allclose(scaled * scales, plain, atol=1e-4)


def test_what_was_drawn_with_probability_p_counts_1_over_p():
    """The weights of a large pool come back from a few articles of it, one kind of which is drawn often."""
    random = np.random.default_rng(2)
    features = simulated(random, 4_000, 120)
    others = features[:, 1:]
    near, far = (np.argsort(others[..., 0] * sign, axis=1)[:, :end] for sign, end in ((-1, 30), (1, 89)))
    drawn = np.concatenate([random.permuted(kind, axis=1)[:, :15] for kind in (near, far)], axis=1)
    some = np.concatenate([features[:, :1], np.take_along_axis(others, drawn[..., None], axis=1)], axis=1)
    probability = np.repeat([1.0, 15 / 30, 15 / 89], [1, 15, 15]) * np.ones((4_000, 1))
    corrected = softmax_regression(choices_of(some, probability))
    np.testing.assert_allclose(corrected, WEIGHTS, atol=0.07)
    naive = softmax_regression(choices_of(some))
    assert abs(naive[0] - WEIGHTS[0]) > 3 * abs(corrected[0] - WEIGHTS[0])


def test_the_gradient_is_the_ridges_where_it_stops():
    random = np.random.default_rng(3)
    sizes = random.integers(1, 9, 300)
    features = random.normal(size=(sizes.sum(), 3))
    choices = Choices(features, sizes, random.uniform(0.1, 1.0, len(features)))
    weights = softmax_regression(choices).astype(np.float64)
    spread = features.std(axis=0)
    np.testing.assert_allclose(gradient_at(choices, weights), 6.0 * weights * spread**2, atol=1e-2)


def test_the_ridge_keeps_the_weights_of_few_clicks_small_and_those_of_equal_features_equal():
    random = np.random.default_rng(4)
    column = random.normal(size=(40, 1))
    features = np.concatenate([column, column, np.zeros((40, 1))], axis=1)
    weights = softmax_regression(Choices(features, np.full(10, 4), np.ones(40)))
    assert weights[0] == pytest.approx(weights[1], rel=1e-4) and weights[2] == 0
    always = Choices(np.tile([[1.0], [0.0]], (20, 1)), np.full(20, 2), np.ones(40))
    assert 0 < softmax_regression(always)[0] < 6, "without a ridge it would be infinite"


def test_huge_features_give_finite_weights():
    random = np.random.default_rng(5)
    features = random.normal(size=(200, 2)) * [1e6, 1e-9]
    assert np.isfinite(softmax_regression(Choices(features, np.full(50, 4), np.full(200, 1e-6)))).all()


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
