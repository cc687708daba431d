"""Questions about the articles of a split: whether evidence is found, and answers are right."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.lines import Fault, FaultPolicy, read_lines, shown
from genre_tf.errors import InputError
from genre_tf.funnel.answering import Answering
from genre_tf.funnel.evidence import Evidence
from genre_tf.generation.writer import WriterOptions, WritingGraph
from genre_tf.metrics.text import answer_match
from genre_tf.models.writer import Writer

COLUMNS = ("question", "answer", "news_id", "alternatives")
NO_ARTICLE = "-"
_BETWEEN = " | "
_BATCH = 8


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question, its accepted answers, and the article that answers it; both empty if no article does."""

    question: str
    answers: tuple[str, ...]
    news_id: str


def read_questions(file: Path, max_bad_rows: int = 0) -> list[QuestionRow]:
    """Read a file of questions, tab-separated with a header: question, answer, news_id, alternatives.

    `-` as news_id: no article answers it, and it has no answer. Alternatives are separated by ` | `.

    Raises:
        InputError: the file cannot be read, has another header or no question, or a row is faulty.
    """
    policy = FaultPolicy.allowing(max_bad_rows)
    policy.advice = "see `genre evaluate --help`"
    lines = read_lines(file, policy)
    header = next(lines, (1, ""))[1].split("\t")
    if tuple(header) != COLUMNS:
        raise InputError(
            f"{file}:1: the header must be {', '.join(COLUMNS)}, separated by tabs; "
            f"got {shown(chr(9).join(header))}"
        )
    rows: list[QuestionRow] = []
    for number, line in lines:
        if not line.strip():
            continue
        found = _row(line.split("\t"))
        if isinstance(found, QuestionRow):
            rows.append(found)
        else:
            policy.reject([Fault(str(file), number, *found)])
    if not rows:
        raise InputError(f"{file} has no question: give at least one row below the header")
    return rows


def _row(fields: list[str]) -> QuestionRow | tuple[str, str]:
    """A row, or the field that is wrong and why."""
    if not 3 <= len(fields) <= len(COLUMNS):
        return "line", f"{len(fields)} fields; expected {', '.join(COLUMNS)}, separated by tabs"
    question, answer, news_id, *more = (field.strip() for field in fields)
    alternatives = [text.strip() for text in more[0].split(_BETWEEN)] if more else []
    answers = tuple(filter(None, [answer, *alternatives]))
    if not question:
        return "question", "is missing"
    if not news_id:
        return "news_id", f"is missing; give the id of an article, or {NO_ARTICLE} if none answers"
    if news_id == NO_ARTICLE:
        if answers:
            return "answer", f"{shown(answers[0])} is given, but news_id {NO_ARTICLE} means no answer"
        return QuestionRow(question, (), "")
    if not answers:
        return "answer", f"is missing; give it, or {NO_ARTICLE} as news_id if no article answers"
    return QuestionRow(question, answers, news_id)


def question_metrics(
    writer: Writer,
    table: ArticleTable,
    questions: Sequence[QuestionRow],
    options: WriterOptions,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure answers from the articles of a table.

    Returns:
        "evidence_recall@1" and "@5" of the articles found, whether or not the question is then declined;
        "f1" and "exact_match" of first answers, 0 if declined; "declined" and "declined_answerable", shares
        of the questions without and with an answer that get none; "grounding" of the answers given; the
        number of questions with an answer, "answerable", and without one, "unanswerable". None where no
        question counts.
    """
    known = set(table.news_ids)
    unknown = [row for row in questions if row.news_id and row.news_id not in known]
    if unknown:
        raise InputError(
            f"{len(unknown)} questions are about articles that the split does not have, such as "
            f"{unknown[0].news_id}: give the split that the questions are about"
        )
    say(f"answering {len(questions)} questions from {len(table) - 1} articles")
    graph = WritingGraph(writer, options)
    evidence = Evidence(table.news_ids, table.titles, table.texts)
    answering = Answering(evidence, graph)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def ask(asked: Any) -> tuple[Any, ...]:
        found = evidence.search(asked)
        ids, titles, texts = evidence.columns(found.rows, found.score > 0)
        text = answering(asked).text[:, :1]
        read = tf.strings.reduce_join(texts, axis=1, separator="\n")
        return ids, titles, tf.where(graph.is_safe(text), text, "")[:, 0], graph.grounding(text, read)[:, 0]

    found_at, exact, f1, declined, grounding = [], [], [], {True: [], False: []}, []  # type: ignore[var-annotated]
    title_of = dict(zip(table.news_ids, table.titles, strict=True))
    for batch in _batches(questions):
        columns = ask(tf.constant([row.question for row in batch]))
        for row, *answered in zip(batch, *(column.numpy() for column in columns), strict=True):
            ids, titles, text, grounded = answered
            answer = text.decode()
            declined[bool(row.news_id)].append(not answer)
            if answer:
                grounding.append(float(grounded))
            if row.news_id:
                # Articles with the same title stand for each other: only one of them is evidence.
                same = _same_title(titles, title_of[row.news_id])
                found_at.append((ids == row.news_id.encode()) | same)
                match = answer_match(answer, row.answers) if answer else (0.0, 0.0)
                exact.append(match[0])
                f1.append(match[1])
    return {
        "evidence_recall@1": _mean([rows[:1].any() for rows in found_at]),
        "evidence_recall@5": _mean([rows.any() for rows in found_at]),
        "f1": _mean(f1),
        "exact_match": _mean(exact),
        "declined": _mean(declined[False]),
        "declined_answerable": _mean(declined[True]),
        "grounding": _mean(grounding),
        "answerable": len(declined[True]),
        "unanswerable": len(declined[False]),
    }


def _same_title(titles: Any, title: str) -> Any:
    wanted = title.strip().casefold()
    return np.array([bool(wanted) and one.decode().strip().casefold() == wanted for one in titles], bool)


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _batches(rows: Sequence[QuestionRow]) -> Iterator[Sequence[QuestionRow]]:
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]
