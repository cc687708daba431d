"""The directions that tell readers apart."""

from itertools import pairwise

import numpy as np
import pytest

from genre_tf.models.interest_space import _common_moment, interest_space


def _readers(seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """600 texts: their first two values are their topic, the other ten, louder, say nothing of readers."""
    random = np.random.default_rng(seed)
    topic = random.integers(0, 4, 600)
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    texts = np.concatenate([0.5 * corners[topic], random.normal(size=(600, 10))], 1)
    texts += 0.3  # all texts have something in common, which is nobody's interest
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    texts[0] = 0.0
    histories = [random.choice(np.flatnonzero(topic == reader % 4), 8) for reader in range(300)]
    return texts, histories


def _loyalty(vectors: np.ndarray, histories: list[np.ndarray]) -> float:
    """How much nearer two clicks of one reader are than those of two readers."""
    pairs = [(history[0], history[1]) for history in histories]
    own = np.mean([vectors[a] @ vectors[b] for a, b in pairs])
    others = np.mean([vectors[a] @ vectors[b] for (a, _), (b, _) in pairwise(pairs)])
    return float(own - others)


def test_it_keeps_what_readers_are_loyal_to() -> None:
    texts, histories = _readers()
    unseen = _readers(1)
    before = _loyalty(unseen[0], unseen[1])
    space = interest_space(texts, histories, 2)
    vectors = (unseen[0] - space.centre) @ space.kernel
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert _loyalty(vectors, unseen[1]) > 3 * before


def test_the_strongest_directions_come_first() -> None:
    texts, histories = _readers()
    strength = np.linalg.norm(interest_space(texts, histories, 12).kernel, axis=0)
    assert (np.diff(strength) <= 1e-6).all()
    assert strength[1] > 3 * strength[4]


def test_equal_histories_count_once_and_their_order_is_nothing() -> None:
    texts, histories = _readers()
    once = interest_space(texts, histories, 12)
    again = interest_space(texts, [*reversed(histories), *histories[:50]], 12)
    np.testing.assert_allclose(once.centre, again.centre, atol=1e-6)
    np.testing.assert_allclose(once.kernel @ once.kernel.T, again.kernel @ again.kernel.T, atol=1e-4)


def test_weights_of_one_change_nothing_bit_for_bit() -> None:
    texts, histories = _readers()
    plain = interest_space(texts, histories, 12)
    ones = interest_space(texts, histories, 12, [np.ones(len(history), np.float32) for history in histories])
    assert all(np.array_equal(*pair) for pair in zip(plain, ones, strict=True))


def test_a_pair_of_clicks_weighs_the_product_of_their_weights() -> None:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(9, 4))
    readers = [((1, 2, 5), (0.25, 4.0, 1.0)), ((3, 8), (2.0, 0.5))]
    expected = np.zeros((4, 4))
    for rows, counts in readers:
        pairs = [(a, b) for a in range(len(rows)) for b in range(len(rows)) if a != b]
        moment = sum(counts[a] * counts[b] * np.outer(vectors[rows[a]], vectors[rows[b]]) for a, b in pairs)
        expected += sum(counts) * moment / sum(counts[a] * counts[b] for a, b in pairs)
    np.testing.assert_allclose(_common_moment(vectors, readers), expected, atol=1e-12)


def test_clicks_of_chance_blur_the_space_less_the_less_they_count() -> None:
    texts, histories = _readers()
    random = np.random.default_rng(4)
    blurred = [np.concatenate([history, random.integers(1, 600, 16)]) for history in histories]
    weights = [np.repeat([1.0, 0.1], [8, 16]) for _ in blurred]
    unseen, histories_of_unseen = _readers(1)

    def loyalty(counted: list[np.ndarray] | None) -> float:
        space = interest_space(texts, blurred, 2, counted)
        vectors = (unseen - space.centre) @ space.kernel
        return _loyalty(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), histories_of_unseen)

    assert loyalty(weights) > loyalty(None)


@pytest.mark.parametrize("histories", [[], [np.array([3])], [np.array([0, 0])], [np.array([0, 5])]])
def test_without_two_clicks_of_a_reader_there_is_no_space(histories: list[np.ndarray]) -> None:
    space = interest_space(_readers()[0], histories, 4)
    assert not space.kernel.any() and space.kernel.shape == (12, 4)
    assert interest_space(_readers()[0], histories, 128).kernel.shape == (12, 12)


def test_one_reader_gives_finite_numbers() -> None:
    space = interest_space(_readers()[0], [np.array([3, 5])], 4)
    assert np.isfinite(space.kernel).all()
