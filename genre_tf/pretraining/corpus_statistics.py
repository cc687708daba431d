"""What the statistics of a corpus give a new language model: first token embeddings, and n-gram targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


_SINGLE_DISCOUNT = 0.75
LONGEST_CORPUS = 20_000_000  # tokens; a larger corpus does not need it, and its n-grams would fill the memory

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of one length, grouped by context; the context is all tokens except the last."""

    # For each token of the corpus, the number of the context that ends with it; -1 if the text has too few
    # tokens before it. int64 [tokens]
    context: Numbers
    first: Numbers  # where the n-grams of each context begin, then the end of the last, int64 [contexts + 1]
    token: npt.NDArray[np.int32]  # last token of each n-gram, int32 [ngrams]
    probability: npt.NDArray[np.float32]  # discounted, of that token after the context, float32 [ngrams]
    left: npt.NDArray[np.float32]  # what the discounts leave for shorter n-grams, float32 [contexts]


class SmoothedNgrams:
    """Interpolated Kneser-Ney probabilities of the next token, at the positions of the corpus itself.

    Args:
        inputs: tokens of each text, int32 [tokens]; the first one begins the text.
        labels: the token after each, int32 [tokens].
        vocabulary: number of tokens.
        longest: length of the longest n-grams in tokens, at least 2.

    Source: Kneser and Ney, "Improved backing-off for m-gram language modeling", 1995, interpolated, with one
    discount per length as in Chen and Goodman, "An empirical study of smoothing techniques for language
    modeling", 1999; as targets of a neural model: Malagutti et al., "The Role of n-gram Smoothing in the Age
    of Neural Networks", 2024.
    """

    def __init__(
        self,
        inputs: Sequence[npt.NDArray[np.int32]],
        labels: Sequence[npt.NDArray[np.int32]],
        vocabulary: int,
        longest: int,
    ) -> None:
        ngrams, single = count_ngrams(inputs, labels, vocabulary, longest)
        ends = np.cumsum([len(text) for text in inputs])[:-1]
        self.contexts: tuple[list[npt.NDArray[np.int32]], ...] = tuple(
            np.split(each.context.astype(np.int32), ends) for each in ngrams
        )
        """For each token of each text, the numbers of its contexts, shortest first; -1 if there is none."""
        self._single = tf.constant(single)
        self._tables = [
            tuple(map(tf.constant, (each.first.astype(np.int32), each.token, each.probability, each.left)))
            for each in ngrams
        ]

    def expected(self, logits: Any, contexts: Any) -> Any:
        """Mean of the logits under the n-gram probabilities: the cross-entropy without its normalizer.

        Logits float32 [tokens, vocabulary], numbers of contexts int32 [tokens, lengths] -> float32 [tokens].
        """
        tokens = tf.shape(logits)[0]
        left, found = tf.ones([tokens]), tf.zeros([tokens])
        for table, context in reversed(list(zip(self._tables, tf.unstack(contexts, axis=1), strict=True))):
            first, following, probability, of_context = table
            known = context >= 0
            number = tf.maximum(context, 0)
            begin = tf.gather(first, number)
            ngrams = tf.ragged.range(begin, tf.where(known, tf.gather(first, number + 1), begin))
            row = tf.cast(ngrams.value_rowids(), tf.int32)
            places = tf.stack([row, tf.gather(following, ngrams.flat_values)], axis=1)
            terms = tf.gather_nd(logits, places) * tf.gather(probability, ngrams.flat_values)
            found += left * tf.math.unsorted_segment_sum(terms, row, tokens)
            left *= tf.where(known, tf.gather(of_context, number), 1.0)
        return found + left * tf.linalg.matvec(logits, self._single)


def count_ngrams(
    inputs: Sequence[npt.NDArray[np.int32]],
    labels: Sequence[npt.NDArray[np.int32]],
    vocabulary: int,
    longest: int,
) -> tuple[list[Ngrams], npt.NDArray[np.float32]]:
    """Count the n-grams of a corpus; arguments as in `SmoothedNgrams`.

    Returns:
        n-grams of 2 tokens up to `longest`; and probabilities of single tokens, float32 [vocabulary].
    """
    tokens, following = (np.concatenate(texts).astype(np.int64) for texts in (inputs, labels))
    position = np.concatenate([np.arange(len(text)) for text in inputs])
    contexts = [tokens]  # for each token, the number of the context of 1, 2, … tokens that ends with it
    for distance in range(1, longest - 1):
        older = np.zeros_like(tokens)
        older[distance:] = tokens[:-distance]
        key = np.where(position >= distance, contexts[-1] * vocabulary + older, -1)
        distinct, number = np.unique(key, return_inverse=True)
        contexts.append(number - int(distinct[0] == -1))
    kinds = [_Kinds.of(context, following, vocabulary) for context in contexts]
    ngrams = []
    for place, (context, kind) in enumerate(zip(contexts, kinds, strict=True)):
        counts = kind.counts
        if place + 1 < len(kinds):  # except for the longest, count the distinct tokens that they follow
            begins = np.bincount(kind.number[position == place], minlength=len(counts))
            before = np.bincount(kind.number[kinds[place + 1].example], minlength=len(counts))
            counts = np.maximum(before, begins)  # nothing precedes an n-gram at the start of a text
        ngrams.append(_discounted(context, kind, counts, vocabulary if place == 0 else 0))
    # Single tokens by the number of distinct tokens before them, discounted in favour of unseen tokens.
    found = np.bincount(following[kinds[0].example], minlength=vocabulary)
    left = _SINGLE_DISCOUNT * np.count_nonzero(found) / found.sum()
    single = np.maximum(found - _SINGLE_DISCOUNT, 0) / found.sum() + left / len(found)
    return ngrams, single.astype(np.float32)


@dataclass(frozen=True)
class _Kinds:
    """The distinct n-grams of one length, sorted by context, then by last token."""

    context: Numbers  # of each n-gram, int64 [ngrams], like its last token and how often it occurs
    token: Numbers
    counts: Numbers
    example: Numbers  # one position of each n-gram, int64 [ngrams]
    number: Numbers  # number of the n-gram at each position, -1 if there is none, int64 [tokens]

    @classmethod
    def of(cls, context: Numbers, following: Numbers, vocabulary: int) -> "_Kinds":
        places = np.flatnonzero(context >= 0)
        key = context[places] * vocabulary + following[places]
        distinct, first, which, counts = np.unique(
            key, return_index=True, return_inverse=True, return_counts=True
        )
        number = np.full(len(context), -1)
        number[places] = which
        return cls(distinct // vocabulary, distinct % vocabulary, counts, places[first], number)


def _discounted(context: Numbers, kind: _Kinds, counts: Numbers, least: int) -> Ngrams:
    """Probabilities from counts, for at least that many contexts; some contexts may have no n-grams."""
    contexts = max(least, int(context.max(initial=-1)) + 1)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once else 0.5
    total = np.bincount(kind.context, counts, contexts)
    kinds = np.bincount(kind.context, minlength=contexts)
    left = np.where(total > 0, discount * kinds / np.maximum(total, 1), 1.0)
    return Ngrams(
        context=context,
        first=np.searchsorted(kind.context, np.arange(contexts + 1)),
        token=kind.token.astype(np.int32),
        probability=((counts - discount) / total[kind.context]).astype(np.float32),
        left=left.astype(np.float32),
    )
