"""Answers as spans of the evidence, before the language model has read them."""

import pytest
import tensorflow as tf

from genre_tf.generation.answers import ASKED, asked_for, spans, words_of

EVIDENCE = [
    "Storm Rita closed 12 schools in Fletcher, North Carolina, on Monday, Mr. Smith said. "
    "It cost $3 million.",
    "Rain ends a match.",
]


def best(question, asked, evidence=EVIDENCE):
    words = words_of(tf.constant([evidence]))
    hits = words.lower[..., None] == tf.constant([asked])[:, None]
    names = tf.strings.regex_full_match(words.core, "[A-Z].*")
    weight = tf.ones([1, len(asked)])
    texts, values = spans(tf.constant([question]), words, names, hits, weight, tf.constant([[1.0, 0.5]]))
    assert (values.numpy()[0, :-1] >= values.numpy()[0, 1:]).all()
    return [text.decode() for text in texts.numpy()[0]]


@pytest.mark.parametrize(
    ("question", "asked", "expected"),
    [
        ("How many schools were closed?", ["schools", "closed"], "12"),
        ("Where are the closed schools?", ["schools", "closed"], "Fletcher"),
        ("How much did the storm cost?", ["cost", "it"], "$3 million"),
    ],
)
def test_what_is_asked_for_decides_between_spans(question, asked, expected):
    assert best(question, asked)[0] == expected


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Who won?", "who"),
        ("How old is the man who won?", "number"),
        ("By what score did they win?", "number"),
        ("When does it open?", "time"),
        ("In which city is it?", "where"),
        ("Why was it closed?", "why"),
        ("Which bear won?", "what"),
        ("Name it", "what"),
        ("谁赢了？", "who"),
        ("有多少人？", "number"),
        ("在哪里？", "where"),
    ],
)
def test_the_first_cue_tells_what_is_asked_for(question, kind):
    assert ASKED[int(asked_for(tf.constant([question]))[0])] == kind


def test_spans_are_different_and_within_sentences():
    texts = [text for text in best("Who was it?", ["storm"]) if text]
    assert len({text.lower() for text in texts}) == len(texts)
    assert not any("said. It" in text for text in texts)


def test_chinese_spans_have_no_spaces():
    texts = best("有多少学校停课？", ["学"], ["暴雪导致12所学校停课。", ""])
    assert any("学校" in text for text in texts)
    assert not any(" 学" in text for text in texts)


def test_no_evidence_has_no_spans():
    assert set(best("Who was it?", ["storm"], ["", ""])) == {""}
