"""Embeddings started from neighbours, and n-gram targets, against plain readings of their formulas."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.pretraining.corpus_statistics import SmoothedNgrams, positive_information, start_embeddings


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


VOCABULARY, END = 12, 0


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    """Random texts with likely successions, between ends."""
    random = np.random.default_rng(3)
    found = []
    for _ in range(60):
        tokens = [END]
        for _ in range(int(random.integers(1, 9))):
            tokens.append(int(random.choice([tokens[-1] % 9 + 1, random.integers(1, 11)])))  # 11 never comes
        found.append([*tokens, END])
    return found


def smoothed(texts: list[list[int]], longest: int) -> SmoothedNgrams:
    inputs = [np.array(text[:-1], np.int32) for text in texts]
    labels = [np.array(text[1:], np.int32) for text in texts]
    return SmoothedNgrams(inputs, labels, VOCABULARY, longest)


def plain(texts: list[list[int]], longest: int, before: list[int], token: int) -> float:
    """Interpolated Kneser-Ney, by counting everything again: slow, and near to the paper."""
    raw = [Counter[tuple[int, ...]]() for _ in range(longest + 1)]
    for text in texts:
        for end in range(1, len(text)):
            for length in range(1, min(longest, end + 1) + 1):
                raw[length][tuple(text[end - length + 1 : end + 1])] += 1
    bigrams = Counter(gram[1] for gram in raw[2])
    kinds = sum(bigrams.values())
    found = max(bigrams[token] - 0.75, 0) / kinds + 0.75 * len(bigrams) / kinds / VOCABULARY
    for length in range(2, longest + 1):
        context = tuple(before[-(length - 1) :])
        if len(context) < length - 1:
            break
        counts = raw[length]
        if length < longest:
            counts = Counter(gram[1:] for gram in raw[length + 1])
            for gram, count in raw[length].items():
                if gram[0] == END:  # nothing stands before it
                    counts[gram] = max(counts[gram], count)
        of_counts = Counter(counts.values())
        discount = of_counts[1] / (of_counts[1] + 2 * of_counts[2])
        following = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        total = sum(following.values())
        here = max(following.get(token, 0) - discount, 0) / total
        found = here + discount * len(following) / total * found
    return found


@pytest.mark.parametrize("longest", [2, 3, 4])
def test_probabilities_are_those_of_the_formula(texts: list[list[int]], longest: int) -> None:
    ngrams = smoothed(texts, longest)
    for number in (0, 7, 31):
        places = len(texts[number]) - 1
        contexts = np.stack([of_length[number] for of_length in ngrams.contexts], axis=1)
        assert contexts.shape == (places, longest - 1)
        every = [
            ngrams.expected(tf.tile(tf.one_hot([token], VOCABULARY), [places, 1]), tf.constant(contexts))
            for token in range(VOCABULARY)
        ]
        found = np.stack([each.numpy() for each in every], axis=1)
        np.testing.assert_allclose(found.sum(1), 1.0, rtol=1e-5)
        for place in range(places):
            before = texts[number][: place + 1]
            expected = [plain(texts, longest, before, token) for token in range(VOCABULARY)]
            np.testing.assert_allclose(found[place], expected, rtol=1e-5)


def test_a_token_that_never_comes_is_not_impossible(texts: list[list[int]]) -> None:
    ngrams = smoothed(texts, 4)
    contexts = tf.constant([[column[0][0] for column in ngrams.contexts]])
    assert 0 < float(ngrams.expected(tf.one_hot([11], VOCABULARY), contexts)[0]) < 0.05


def test_the_loss_pulls_logits_to_the_probabilities(texts: list[list[int]]) -> None:
    ngrams = smoothed(texts, 3)
    contexts = tf.constant(np.stack([of_length[5] for of_length in ngrams.contexts], axis=1))
    logits = tf.Variable(tf.zeros([contexts.shape[0], VOCABULARY]))
    for _ in range(400):
        with tf.GradientTape() as tape:
            losses = tf.reduce_logsumexp(logits, axis=1) - ngrams.expected(logits, contexts)
        logits.assign_sub(4.0 * tape.gradient(losses, logits))
    for place, (before, _) in enumerate(pairwise(texts[5])):
        assert before == texts[5][place]
        expected = [plain(texts, 3, texts[5][: place + 1], token) for token in range(VOCABULARY)]
        np.testing.assert_allclose(tf.nn.softmax(logits)[place], expected, atol=2e-3)


def test_two_texts_are_enough() -> None:
    ngrams = smoothed([[END, 1, END], [END, 1, 2, END]], 4)
    contexts = tf.constant(np.stack([of_length[1] for of_length in ngrams.contexts], axis=1))
    total = sum(
        ngrams.expected(tf.tile(tf.one_hot([token], VOCABULARY), [3, 1]), contexts).numpy()
        for token in range(VOCABULARY)
    )
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
