"""Names, numbers and quotes must stand in the evidence."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.generation.grounding import Grounding, common_words, common_words_of

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
        ("he said “we will always", 1.0),  # cut off: nobody knows where the quote ends
        ('They "never" did', 1.0),
        ('They "always" did', 0.0),
        ("no claim at all", 1.0),
        ("", 1.0),
    ],
)
def test_share_of_claims(grounding: Grounding, text: str, share: float) -> None:
    assert float(grounding(tf.constant([[text]]), tf.constant([SOURCE]))[0, 0]) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "evidence", "unsupported"),
    [
        ("Two dead, 3 hurt", "2 died and three were hurt", ""),
        ("Three dead", "2 died", "Three"),
        ("One of them won 1st place in 2 days", "first place, two days, one game", ""),
        ("One must go", "all may stay", ""),
        ("It cost $1,200,000", "it cost 1200000 dollars", ""),
        ("It cost 1\u00a0200\u202f000", "it cost 1,200,000 dollars", ""),
        ("It cost 1'200.50.", "paid 1200.50 at once", ""),
        ("He is No.1 of 10.", "No. 1, and 10 more", ""),
        ("Trump's and TRUMP’S", "Donald Trump", ""),
        ("The Giants' win", "the Giants won", ""),
        ("The plan of\nParis\nRome", "Rome", "Paris"),
        ("U.S. troops and U.S.A. and US", "the U.S. said", ""),
        ("US troops", "they told us so", "USA"),
        ("J.K. Rowling of the U.N.", "JK Rowling, UN envoy", ""),
        ("Anglo-American, 18-year-old", "An Anglo American, aged 18", ""),
        ("the iPhone", "a phone", "iPhone"),
        ("Don't and Isn't He'll We've", "nothing", ""),
        ("\uff12\uff10\uff11\uff19 in R\u200bome", "Rome 2019", ""),
        ("新闻2019年", "在2019年", ""),
        ("新闻2018年", "在2019年", "2018"),
        ("他说“我们不会”", "我们不会停止", ""),
        ("他说「我们会」", "我们不会停止", "们 会"),
        ("O'Neil says 'We don't stop'", "said O’Neil: we don’t stop", ""),
        ("she says 'I can not stop'", "I will not stop", "I can\ncan not"),
        ("«We will» and ‹stop›", "we will stop", ""),
    ],
)
def test_unsupported_claims_are_named(
    grounding: Grounding, text: str, evidence: str, unsupported: str
) -> None:
    found = grounding.unsupported(tf.constant([[text, ""]]), tf.constant([evidence]))
    assert [claim.decode() for claim in found[0].numpy()] == [unsupported, ""]
    share = float(grounding(tf.constant([[text]]), tf.constant([evidence]))[0, 0])
    assert (share == 1.0) == (unsupported == "")


def test_each_row_has_its_own_evidence(grounding: Grounding) -> None:
    texts = tf.constant([["Paris", "Rome"], ["Paris", "Rome"], ["Paris", ""]])
    scores = tf.function(grounding)(texts, tf.constant(["in Paris", "Rome and Bern", ""]))
    np.testing.assert_array_equal(scores, [[1, 0], [0, 1], [0, 1]])


def test_common_words_are_those_mostly_written_small() -> None:
    words = common_words(["The apple fell. Apple rose, Apple sank", "a pear, a pear"])
    assert "pear" in words
    assert "apple" not in words
    assert "the" in words


def test_titles_tell_common_words_where_no_article_has_an_abstract() -> None:
    titles = ["Rain is heavy", "A heavy coat", "Rome is old"]
    assert "heavy" in common_words_of(titles, ["", ""])
    assert "heavy" not in common_words_of(titles, ["", "Rome is old."])
    headline = Grounding(common_words_of(titles, []))(tf.constant([["Heavy Rome"]]), tf.constant(["rome"]))
    assert float(headline[0, 0]) == 1.0
