"""Files of questions and the measures of answers."""

import pytest

from genre_tf.config import WritingConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.errors import InputError
from genre_tf.evaluation.questions import QuestionRow, question_metrics, read_questions
from genre_tf.generation.writer import writer_options
from genre_tf.metrics.text import answer_match
from genre_tf.models.writer import Writer

HEADER = "question\tanswer\tnews_id\talternatives\n"


def written(tmp_path, text):
    file = tmp_path / "questions.tsv"
    file.write_text(text, encoding="utf-8")
    return file


def test_rows_have_all_accepted_answers_or_no_article(tmp_path):
    rows = read_questions(
        written(tmp_path, HEADER + "Who?\tRita\tN1\tStorm Rita | the storm\n\nWhy?\t\t-\t\n")
    )
    assert rows == [
        QuestionRow("Who?", ("Rita", "Storm Rita", "the storm"), "N1"),
        QuestionRow("Why?", (), ""),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("question\tanswer\n", "the header must be question, answer, news_id, alternatives"),
        (HEADER, "has no question"),
        (HEADER + "Who?\tRita\n", ":2: line: 2 fields"),
        (HEADER + "\tRita\tN1\t\n", ":2: question: is missing"),
        (HEADER + "Who?\t\tN1\t\n", ":2: answer: is missing"),
        (HEADER + "Who?\tRita\t\t\n", ":2: news_id: is missing"),
        (HEADER + "Who?\tRita\t-\t\n", ":2: answer: 'Rita' is given"),
    ],
)
def test_a_malformed_file_is_refused_with_file_line_and_field(tmp_path, text, message):
    file = written(tmp_path, text)
    with pytest.raises(InputError) as refused:
        read_questions(file)
    assert message in str(refused.value) and str(file) in str(refused.value)


def test_bad_rows_may_be_skipped(tmp_path):
    file = written(tmp_path, HEADER + "Who?\t\tN1\t\nWhy?\t\t-\t\n")
    assert [row.question for row in read_questions(file, 1)] == ["Why?"]


@pytest.mark.parametrize(
    ("answer", "accepted", "expected"),
    [
        ("The Picnic Basket!", ["picnic basket"], (1.0, 1.0)),
        ("a basket", ["picnic basket", "hotel"], (0.0, 2 / 3)),
        ("storm", ["rain"], (0.0, 0.0)),
        ("北京市", ["北京"], (0.0, 0.8)),
        ("北京。", ["北京"], (1.0, 1.0)),
    ],
)
def test_answers_are_matched_as_in_squad(answer, accepted, expected):
    assert answer_match(answer, accepted) == pytest.approx(expected)


@pytest.fixture(scope="module")
def measured():
    table = ArticleTable(
        [
            Article("N1", "", "", "Storm Rita closes schools", "The storm closed 12 schools in Fletcher."),
            Article("N2", "", "", "Bank raises rates", ""),
        ]
    )
    writer = Writer.from_preset("tiny")
    rows = [
        QuestionRow("How many schools in Fletcher had storm Rita closed?", ("12",), "N1"),
        QuestionRow("Who raises the rates?", ("Bank",), "N2"),
        QuestionRow("What is the capital of France?", (), ""),
    ]
    return (
        table,
        rows,
        lambda rows: question_metrics(writer, table, rows, writer_options(WritingConfig(), writer.prompts)),
    )


def test_evidence_answers_and_declined_questions_are_measured(measured):
    _, rows, metrics = measured
    found = metrics(rows)
    assert found["evidence_recall@1"] == found["evidence_recall@5"] == 1.0
    assert (found["declined"], found["declined_answerable"]) == (1.0, 0.0)
    assert found["grounding"] == 1.0  # answers are copied
    assert 0 <= found["exact_match"] <= found["f1"] <= 1
    assert (found["answerable"], found["unanswerable"]) == (2, 1)


def test_a_question_about_an_unknown_article_is_refused(measured):
    with pytest.raises(InputError, match="articles that the split does not have, such as N9"):
        measured[2]([QuestionRow("Who?", ("x",), "N9")])
