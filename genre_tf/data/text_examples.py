"""Training texts of the generator: titles that readers clicked, and the articles' own titles and texts."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionColumns, ImpressionExample


@dataclass(frozen=True, slots=True)
class TextExample:
    """One text to learn.

    Args:
        kind: "title", "summary", "body" or "answer".
        history: int32 [h], article rows that the reader clicked before, oldest first; empty: no reader.
        source: a text to write from; "" if there is none.
        target: the text to write.
        article: row of the article that the target comes from.
    """

    kind: str
    history: npt.NDArray[np.int32]
    source: str
    target: str
    article: int

    @property
    def task(self) -> str:
        """Its task: a title without a source is "interest" or, without a reader, "plain"."""
        if self.kind != "title" or self.source:
            return self.kind
        return "interest" if len(self.history) else "plain"


NO_HISTORY = np.zeros(0, np.int32)
# Chinese and Japanese write no space behind a full stop.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’]?\s+|(?<=[。！？])[”’」』]*\s*")
_QUESTION_MARKS = frozenset("?？؟")
_CLICKS_OF_READER = 8  # more of one history repeat each other
_EVIDENCE_SENTENCES = 2


def click_examples(
    table: ArticleTable, examples: Sequence[ImpressionExample], *, articles: Collection[int] | None = None
) -> list[TextExample]:
    """The title of every clicked article, given the reader, and at an article's first click also its body.

    Args:
        table: texts of the articles.
        examples: labelled impressions.
        articles: only clicks on these rows; None: on any.

    Returns:
        In the order of the log; one body per article: bodies are long, and most clicks fall on few articles.
    """
    texts = []
    told: set[int] = set()
    for block in ImpressionColumns.of(examples).blocks("history", "candidates", "labels"):
        clicked = np.flatnonzero(block.labels)
        of_row = block.row_of_candidate[clicked]
        for row, number in zip(block.candidates[clicked].tolist(), of_row.tolist(), strict=True):
            if articles is not None and row not in articles:
                continue
            title, abstract = table.titles[row], table.abstracts[row]
            history = block.history[block.history_ends[number] : block.history_ends[number + 1]]
            if title:
                texts.append(TextExample("title", history, abstract, title, row))
            if title and abstract and row not in told:
                told.add(row)
                texts.append(TextExample("body", history, _about(table, row), body(title, abstract), row))
    return texts


def history_examples(table: ArticleTable, examples: Sequence[ImpressionExample]) -> list[TextExample]:
    """Titles within histories, which have by far the most clicks of a log, each given the clicks before it.

    Args:
        table: texts of the articles.
        examples: impressions; of each reader the longest history counts.

    Returns:
        At most eight titles per reader, spread evenly over the history except its first click; no sources.
    """
    longest: dict[str, npt.NDArray[np.int32]] = {}
    for block in ImpressionColumns.of(examples).blocks("user_id", "history"):
        for number, user in enumerate(block.user_id):
            history = block.history[block.history_ends[number] : block.history_ends[number + 1]]
            if len(history) > len(longest.get(user, NO_HISTORY)):
                longest[user] = history.copy()  # the block itself is not kept
    texts = []
    for history in longest.values():
        places = np.unique(np.linspace(1, len(history) - 1, _CLICKS_OF_READER).astype(int))
        for place in places[(places > 0) & (places < len(history))].tolist():
            row = int(history[place])
            if table.titles[row]:
                texts.append(TextExample("title", history[:place], "", table.titles[row], row))
    return texts


def article_examples(table: ArticleTable, rows: Iterable[int]) -> list[TextExample]:
    """Examples of articles without a reader: the title from the abstract (or from nothing if there is none),
    the abstract from title and category, and both together; and for a title that is a question the answer,
    which is the beginning of the abstract.

    Args:
        table: texts of the articles.
        rows: which of them.

    Returns:
        One to four examples per article with a title.
    """
    texts = []
    another = ""  # another text, from which an answer must distinguish the right one
    for row in rows:
        title, abstract = table.titles[row], table.abstracts[row]
        if not title:
            continue
        texts.append(TextExample("title", NO_HISTORY, abstract, title, row))
        if abstract:
            source = _about(table, row)
            texts.append(TextExample("summary", NO_HISTORY, source, abstract, row))
            texts.append(TextExample("body", NO_HISTORY, source, body(title, abstract), row))
            if not _QUESTION_MARKS.isdisjoint(title):
                found = [_beginning(abstract, _EVIDENCE_SENTENCES), another]
                source = question_source(title, found if row % 2 else found[::-1])
                texts.append(TextExample("answer", NO_HISTORY, source, _beginning(abstract, 1), row))
            another = _beginning(abstract, _EVIDENCE_SENTENCES)
    return texts


def question_source(question: str, evidence: Iterable[str]) -> str:
    """The source of an answer: the question, then one line for each text that may hold the answer."""
    return "\n".join(" ".join(text.split()) for text in (question, *evidence) if text.strip())


def _about(table: ArticleTable, row: int) -> str:
    title, category = table.titles[row], table.categories[row]
    return f"{title} ({category})" if category else title


def _beginning(text: str, sentences: int) -> str:
    """The first sentences; where one ends is guessed from the characters alone."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)]
    return text[: ends[sentences - 1]].strip() if len(ends) >= sentences else text


def body(title: str, abstract: str) -> str:
    """An article: its headline, and on the next line its text."""
    return f"{title}\n{abstract}"


def first_shown_in(
    later: Sequence[ImpressionExample], earlier: Sequence[ImpressionExample]
) -> frozenset[int]:
    """Rows of the articles that later impressions show and that no earlier impression or history holds.

    A model that is trained without these articles can be measured on them.
    """
    seen = ImpressionColumns.of(earlier).articles("candidates", "history")
    shown = ImpressionColumns.of(later).articles("candidates")
    return frozenset(np.setdiff1d(shown, seen).tolist()) - {0}


def learning_split(
    table: ArticleTable,
    train: Sequence[ImpressionExample],
    validation: Sequence[ImpressionExample],
) -> tuple[list[TextExample], list[TextExample]]:
    """Texts to learn and texts to validate with.

    Args:
        table: texts of the articles that may be learned, so not those of a split to be reported on.
        train: earlier impressions.
        validation: later ones.

    Returns:
        Training texts: clicks of `train`, also those within its histories, and every article except those
        that only `validation` shows.
        Validation texts: clicks of `validation` on exactly those, and examples of those articles; if there
        are none, clicks of `validation` on any article.
    """
    unseen = first_shown_in(validation, train)
    known = [row for row in range(1, len(table)) if row not in unseen]
    to_learn = click_examples(table, train) + history_examples(table, train) + article_examples(table, known)
    to_validate = click_examples(table, validation, articles=unseen) + article_examples(table, sorted(unseen))
    return to_learn, to_validate or click_examples(table, validation)


def history_text(table: ArticleTable, history: npt.NDArray[np.int32]) -> str:
    """Titles of a history joined by line breaks, oldest first, as a client of `generate` sends them."""
    return "\n".join(history_titles(table, history))


def history_titles(table: ArticleTable, history: npt.NDArray[np.int32]) -> tuple[str, ...]:
    """Titles of a history, each on one line, oldest first; articles without one are left out."""
    titles = (" ".join(table.titles[row].split()) for row in history.tolist())
    return tuple(title for title in titles if title)
