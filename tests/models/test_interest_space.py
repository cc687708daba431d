"""The directions that tell readers apart."""

import numpy as np
import pytest

from genre_tf.models.interest_space import interest_space


def _readers(seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """600 texts whose first two values are their topic and whose other ten, louder, say nothing of readers."""
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
    others = np.mean([vectors[a] @ vectors[b] for (a, _), (b, _) in zip(pairs, pairs[1:], strict=False)])
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


@pytest.mark.parametrize("histories", [[], [np.array([3])], [np.array([0, 0])], [np.array([0, 5])]])
def test_without_two_clicks_of_a_reader_there_is_no_space(histories: list[np.ndarray]) -> None:
    space = interest_space(_readers()[0], histories, 4)
    assert not space.kernel.any() and space.kernel.shape == (12, 4)


def test_one_reader_gives_finite_numbers() -> None:
    space = interest_space(_readers()[0], [np.array([3, 5])], 4)
    assert np.isfinite(space.kernel).all()
