"""Embeddings started from neighbours: the information by hand, and tokens with like neighbours are close."""

import numpy as np
import pytest

from genre_tf.training.embedding_start import positive_information, start_embeddings


def test_the_information_by_hand():
    places, values = positive_information([np.asarray([0, 1], np.int32), np.asarray([2, 1], np.int32)], 3)
    # Pairs 0-1 and 2-1, each both ways: counts 1; token sums 1, 2, 1; neighbours weigh 1, 2 ** .75, 1.
    weight = 2**0.75
    share = np.asarray([1.0, weight, 1.0]) / (2 + weight)
    assert places.tolist() == [1, 3, 5, 7]  # 0-1, 1-0, 1-2, 2-1
    assert values == pytest.approx(
        np.log([1 / share[1], 1 / (2 * share[0]), 1 / (2 * share[2]), 1 / share[1]])
    )


def test_tokens_with_the_same_neighbours_are_close():
    random = np.random.default_rng(0)
    # Tokens 0 to 4 stand between 10 and 11, tokens 5 to 9 between 12 and 13.
    groups = random.integers(0, 2, 400)
    texts = [np.asarray([10 + 2 * g, 5 * g + random.integers(5), 11 + 2 * g], np.int32) for g in groups]
    found = start_embeddings(texts, 16, 6, seed=1)
    assert found.shape == (16, 6) and found.dtype == np.float32
    assert float(found.std()) == pytest.approx(0.02, rel=1e-3)
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    near, far = unit[0] @ unit[1:5].T, unit[0] @ unit[5:10].T
    assert near.min() > far.max() + 0.3
    np.testing.assert_array_equal(found, start_embeddings(texts, 16, 6, seed=1))
