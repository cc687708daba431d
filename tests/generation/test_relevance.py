"""Shared words: weights, relevance and sentences."""

import math

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.relevance import Relevance, sentences_of, word_weights, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Storm, closes SCHOOLS!", ["storm", "closes", "schools"]),
        ("don't  3.5", ["dont", "35"]),
        ("暴风雪 NBA", ["暴", "风", "雪", "nba"]),
        ("", []),
        (b"\xff\xfe", []),
    ],
)
def test_words(text, words):
    assert [word.decode() for word in words_of(tf.constant([text])).to_list()[0]] == words


def test_a_word_weighs_the_more_the_fewer_texts_have_it():
    weights = word_weights(["the snow the", "the cup", "the", "snow"])
    assert weights == {"": 1.39, "the": 0.29, "snow": 0.69, "cup": 1.39}
    assert word_weights([]) == {"": 1.0}
    assert math.exp(weights["cup"]) == pytest.approx(4, abs=0.1)


def test_relevance_is_the_cosine_up_to_the_length_of_the_query():
    relevance = Relevance({"": 2.0, "the": 0.0, "snow": 1.0})
    texts = tf.constant([["Snow the cup", "THE the", ""], ["cup", "snow", "rain"]])
    found = tf.function(relevance)(texts, tf.constant(["the Cup.", "snow and rain"]))
    np.testing.assert_allclose(found, [[4 / math.sqrt(5), 0, 0], [0, 1, 2]], rtol=1e-5)


@pytest.mark.parametrize(
    ("texts", "query"), [([["", ""]], [""]), ([[]], ["a"]), ([["a"]], [""]), ([["", "a"]], ["b"])]
)
def test_nothing_shared_is_no_relevance(texts, query):
    found = Relevance()(tf.constant(texts, tf.string), tf.constant(query))
    assert found.shape == np.asarray(texts).shape and not found.numpy().any()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ('One. Two? "Three!" Four', ["One.", " Two?", ' "Three!"', " Four"]),
        ("一。二！三", ["一。", "二！", "三"]),
        ("Title\nText 3.5 ends", ["Title", "\nText 3.5 ends"]),
        ("", [""]),
    ],
)
def test_sentences_together_are_the_text(text, pieces):
    found = [piece.decode() for piece in sentences_of(tf.constant([text])).to_list()[0]]
    assert found == pieces and "".join(found) == text
