"""Initial token embeddings of a new language model, computed from which tokens occur near each other.

Gradient descent needs a few hundred steps to learn this, which a small corpus cannot spare.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_WINDOW = 4  # tokens on either side; one at distance d counts 1 / d
_SMOOTHING = 0.75  # exponent for the frequencies of neighbours; otherwise the rarest seem closest
_DEVIATION = 0.02  # standard deviation of GPT-2's random embeddings, which these replace
_SPARE, _ROUNDS = 32, 3  # oversampling and power iterations of the randomized decomposition

Sparse = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def start_embeddings(
    texts: Sequence[npt.NDArray[np.int32]], vocabulary: int, width: int, seed: int
) -> npt.NDArray[np.float32]:
    """Embeddings in which tokens with the same neighbours are close.

    The leading singular vectors of the positive pointwise mutual information of token and neighbour, each
    times the root of its singular value, under a random rotation that gives every dimension the same share.

    Args:
        texts: tokens of each text, int32 [tokens].
        vocabulary: number of tokens.
        width: embedding width.
        seed: seed of the random numbers.

    Returns:
        float32 [vocabulary, width], of mean 0 and standard deviation 0.02 over all values.

    Source: Levy, Goldberg and Dagan, "Improving Distributional Similarity with Lessons Learned from Word
    Embeddings", 2015; Halko, Martinsson and Tropp, "Finding structure with randomness", 2011.
    """
    random = np.random.default_rng(seed)
    places, values = positive_information(texts, vocabulary)
    matrix = tf.SparseTensor(
        np.stack([places // vocabulary, places % vocabulary], 1), values.astype(np.float32), [vocabulary] * 2
    )

    def times(right: npt.NDArray[np.float32], transposed: bool) -> npt.NDArray[np.float32]:
        found = tf.sparse.sparse_dense_matmul(matrix, right, adjoint_a=transposed)
        return found.numpy()  # type: ignore[no-any-return]

    kept = min(width, vocabulary)
    basis = random.normal(size=(vocabulary, min(kept + _SPARE, vocabulary))).astype(np.float32)
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(times(times(basis, True), False))[0]
    left, strength, _ = np.linalg.svd(times(basis, True).T, full_matrices=False)
    vectors = (basis @ left)[:, :kept] * np.sqrt(strength[:kept])
    turned = vectors @ np.linalg.qr(random.normal(size=(width, width)))[0][:kept]
    turned -= turned.mean(0)
    return (turned * (_DEVIATION / max(float(turned.std()), 1e-12))).astype(np.float32)


def positive_information(texts: Sequence[npt.NDArray[np.int32]], vocabulary: int) -> Sparse:
    """Positive pointwise mutual information of tokens and their neighbours.

    Args:
        texts: tokens of each text, int32 [tokens].
        vocabulary: number of tokens.

    Returns:
        The pairs as token times `vocabulary` plus neighbour, ascending, int64 [pairs]; and their information,
        float64 [pairs], above 0.
    """
    tokens = np.concatenate(texts).astype(np.int64)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    pairs, weights = [], []
    for distance in range(1, _WINDOW + 1):
        together = owner[:-distance] == owner[distance:]
        first, second = tokens[:-distance][together], tokens[distance:][together]
        pairs += [first * vocabulary + second, second * vocabulary + first]
        weights += [np.full(2 * len(first), 1.0 / distance)]
    places, which = np.unique(np.concatenate(pairs), return_inverse=True)
    counts = np.bincount(which, np.concatenate(weights), len(places))
    of_token = np.bincount(places // vocabulary, counts, vocabulary)
    of_neighbour = of_token**_SMOOTHING
    expected = of_token[places // vocabulary] * (of_neighbour / of_neighbour.sum())[places % vocabulary]
    information = np.log(counts / expected)
    return places[information > 0], information[information > 0]
