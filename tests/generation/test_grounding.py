"""Names, numbers and quotes must stand in the evidence."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.grounding import Grounding, common_words

SOURCE = 'Donald Trump\'s plan cost $1,200 on Friday. "We will never stop," he said in Zürich, up 3.5%.'
CORPUS = ["the dog wins a big game", "a dog vows to win big as the game wins hearts", "he vows"]


@pytest.fixture(scope="module")
def grounding() -> Grounding:
    return Grounding(common_words(CORPUS))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Trump Vows Big Game", 1.0),  # a headline's capitals do not make names of common words
        ("TRUMP wins", 1.0),
        ("Obama wins", 0.0),
        ("Obama and Trump", 0.5),
        ("It cost 1200 dollars, up 3.5", 1.0),
        ("It cost 1300 dollars", 0.0),
        ("3.6 percent", 0.0),
        ("The plan of zürich", 1.0),
        ("Züri", 0.0),
        ("he said “we will never stop”", 1.0),
        ("he said 'we will never stop'", 1.0),
        ("he said “we will always stop”", 1 / 3),
        ("no claim at all", 1.0),
        ("", 1.0),
    ],
)
def test_share_of_claims(grounding: Grounding, text: str, share: float) -> None:
    assert float(grounding(tf.constant([[text]]), tf.constant([SOURCE]))[0, 0]) == pytest.approx(share)


def test_each_row_has_its_own_evidence(grounding: Grounding) -> None:
    texts = tf.constant([["Paris", "Rome"], ["Paris", "Rome"], ["Paris", ""]])
    scores = tf.function(grounding)(texts, tf.constant(["in Paris", "Rome and Bern", ""]))
    np.testing.assert_array_equal(scores, [[1, 0], [0, 1], [0, 1]])


def test_common_words_are_those_mostly_written_small() -> None:
    words = common_words(["The apple fell. Apple rose, Apple sank", "a pear, a pear"])
    assert "pear" in words
    assert "apple" not in words
    assert "the" in words
