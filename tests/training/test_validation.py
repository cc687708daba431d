"""Validation during training."""

import math

import numpy as np

from genre_tf.training.validation import Validation


def test_scores_that_are_no_numbers_give_metrics_that_are_none():
    validation = object.__new__(Validation)  # without a model: what is made of its scores
    validation.clicked = [np.array([True, False]), np.array([False, True])]
    right, wrong = np.array([2.0, 1.0]), np.array([np.inf, 1.0])
    assert validation._metrics([right, right])["auc"] == 0.5
    assert all(math.isnan(value) for value in validation._metrics([right, wrong]).values())
