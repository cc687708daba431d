"""Evidence for questions by words, in the graph."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.funnel.answering import evidence_of
from genre_tf.funnel.evidence import ARTICLES, Evidence, split

TITLES = [
    "Storm closes schools in Fletcher",
    "Bank raises rates",
    "Rates fall again in Fletcher",
    "暴雪导致学校停课",
    "央行上调利率",
    "",
    "Storm closes schools in Fletcher",
]
TEXTS = [
    "Storm closes schools in Fletcher. On Monday 12 schools closed.",
    *TITLES[1:6],
    "another article with the same title",
]
IDS = [f"N{number}" for number in range(len(TITLES))]


@pytest.fixture(scope="module")
def evidence():
    return Evidence(IDS, TITLES, TEXTS)


def first(evidence, question):
    found = evidence_of(evidence, tf.constant([question]))
    return found.news_ids.numpy()[0, 0].decode()


def test_the_article_with_the_rarest_words_comes_first(evidence):
    found = evidence.search(tf.constant(["Which schools did the storm close?", "Who raised the rates?"]))
    assert found.rows.shape == (2, ARTICLES)
    ids = evidence.columns(found.rows, found.score > 0)[0].numpy().astype(str)
    assert ids[:, 0].tolist() == ["N0", "N1"]
    assert ids[1].tolist() == ["N1", "N2", "", "", ""]  # no article without a word of the question


def test_chinese_is_found_by_characters_and_their_pairs(evidence):
    assert first(evidence, "哪里的学校停课？") == "N3"
    assert first(evidence, "谁上调利率？") == "N4"
    words = split(tf.constant(["雪崩，NBA赛"])).numpy()[0]
    assert [word.decode() for word in words] == ["雪", "崩", "NBA", "赛", "雪崩"]


@pytest.mark.parametrize(
    "question",
    [
        "",
        " ",
        "Who is it?",
        "What is the capital of France?",
        "How many schools are closed in Paris?",
        "法国首都在哪里？",
    ],
)
def test_a_question_that_no_article_answers_has_no_evidence(evidence, question):
    assert first(evidence, question) == ""


def test_articles_without_titles_and_repeated_titles_are_left_out(evidence):
    assert evidence.news_ids.numpy().astype(str).tolist() == IDS[:5]


def test_no_articles_answer_nothing():
    assert first(Evidence([], [], []), "Which schools are closed?") == ""


def test_scores_are_those_of_bm25(evidence):
    found = evidence.search(tf.constant(["rates"]))
    lengths = np.array([10, 3, 5, 15, 11])  # characters and pairs count as words
    expected = np.log1p((5 - 2 + 0.5) / (2 + 0.5)) * 1.9 / (1 + 0.9 * (0.6 + 0.4 * lengths / lengths.mean()))
    np.testing.assert_allclose(found.score.numpy()[0, :2], np.sort(expected[1:3])[::-1], rtol=1e-5)
