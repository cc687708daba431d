"""Texts to learn from: of articles, with newer ones held out; those that readers clicked; and judged ones."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.data.approved_texts import ApprovedText
from genre_tf.data.articles import Article, ArticleTable, Impression
from genre_tf.data.click_log import block_of
from genre_tf.data.columns import ImpressionColumns, ImpressionExample, Rows
from genre_tf.data.lines import Fault, FaultPolicy, read_lines, shown
from genre_tf.data.mind import read_split
from genre_tf.data.prepared import split_by_time
from genre_tf.errors import InputError

NO_HISTORY = np.zeros(0, np.int32)
_CLICKS_OF_READER = 8  # more of one history repeat each other
_UNSAFE = {"safe": False, "0": False, "unsafe": True, "1": True}


@dataclass(frozen=True)
class NewsTexts:
    """Texts of articles, each once: titles, and abstracts if there are any."""

    titles: tuple[str, ...]
    abstracts: tuple[str, ...]

    @classmethod
    def of(cls, articles: Iterable[Article], without: Collection[str] = frozenset()) -> "NewsTexts":
        """Texts in the order of the articles, each once, without blank ones and those of `without`."""
        found: list[dict[str, None]] = [{}, {}]
        for article in articles:
            for texts, text in zip(found, (article.title, article.abstract), strict=True):
                if text.strip() and text not in without:
                    texts[text] = None
        return cls(*(tuple(texts) for texts in found))

    @property
    def all(self) -> tuple[str, ...]:
        """Titles, then abstracts."""
        return self.titles + self.abstracts

    @property
    def kinds(self) -> dict[str, tuple[str, ...]]:
        """The kinds that have texts, by name."""
        return {name: found for name in ("titles", "abstracts") if (found := getattr(self, name))}


@dataclass(frozen=True)
class Corpus:
    """Texts to learn, and newer ones to validate with."""

    learned: NewsTexts  # of every article except those held out
    held_out: NewsTexts  # of the articles that only the newest part of the log shows
    article_ids: frozenset[str]  # of all these articles

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all texts."""
        parts = (self.learned, self.held_out)
        digest = hashlib.sha256(repr([(each.titles, each.abstracts) for each in parts]).encode())
        return digest.hexdigest()


def read_corpus(
    data: Path,
    splits: Sequence[str] = ("train",),
    validation_share: float = 0.1,
    max_bad_rows: int = 0,
    max_history: int = 50,
) -> Corpus:
    """Reads the articles of some splits and holds out those that a log first shows in its newest part.

    The held-out articles are those that `genre train generation` holds out of the same log with the same
    share and `max_history`, so that a writer is not validated on texts that were learned here. Texts that an
    older article has verbatim are not held out.

    Args:
        data: folder of the data set.
        splits: names of the splits, without those to report on.
        validation_share: newest share of the impressions; articles that only they show are held out.
        max_bad_rows: rows of each split that may be skipped.
        max_history: newest clicks of a history that training sees.

    Raises:
        InputError: a wrong path or file, or nothing to learn or to hold out.
    """
    articles: dict[str, Article] = {}
    impressions: list[Impression] = []
    for name in splits:
        split = read_split(data, name, max_bad_rows)
        articles = {**split.articles, **articles}  # of equal ids the first wins
        impressions += split.impressions
    table = ArticleTable(articles.values())
    log = ImpressionColumns([block_of(impressions, table, max_history)])
    earlier, later = split_by_time(log, validation_share)
    newest = {table.news_ids[row] for row in first_shown_in(later, earlier)}
    learned = NewsTexts.of(article for key, article in articles.items() if key not in newest)
    held_out = NewsTexts.of((articles[key] for key in articles if key in newest), without={*learned.all})
    if not learned.titles or not held_out.titles:
        raise InputError(
            f"{data}: {len(learned.titles)} titles to learn and {len(held_out.titles)} held out of the "
            f"newest {validation_share:g} of the log: both are needed, so give more data or another "
            "pretrain.validation_share"
        )
    return Corpus(learned, held_out, frozenset(articles))


def read_unseen(data: Path, split: str, corpus: Corpus, max_bad_rows: int = 0) -> NewsTexts:
    """Texts of another split's articles; articles and texts of the corpus are left out.

    Raises:
        InputError: a wrong path or file, or no such article.
    """
    articles = read_split(data, split, max_bad_rows).articles
    known = {*corpus.learned.all, *corpus.held_out.all}
    unseen = (article for key, article in articles.items() if key not in corpus.article_ids)
    texts = NewsTexts.of(unseen, without=known)
    if not texts.titles:
        raise InputError(
            f"{data / split} has no articles beyond those of the training data: give a later split"
        )
    return texts


@dataclass(frozen=True)
class LabelledTexts:
    """Distinct texts that people judged."""

    texts: list[str]  # n texts
    unsafe: npt.NDArray[np.bool_]  # bool [n]


def read_labelled_texts(file: Path, policy: FaultPolicy) -> LabelledTexts:
    """Read `label TAB text` lines.

    Args:
        file: UTF-8, gzipped if its name ends in `.gz`; labels are safe or 0, and unsafe or 1. Blank lines are
            skipped; a text that is repeated with its label counts once.
        policy: decides what happens to a faulty line: one without a tab, with another label, without text, or
            with a text that had the other label before.

    Raises:
        InputError: the file cannot be read, or the policy stops.
    """
    found: dict[str, tuple[bool, int]] = {}
    for number, line in read_lines(file, policy):
        if not line.strip():
            continue
        label, _, text = (part.strip() for part in line.partition("\t"))
        unsafe = _UNSAFE.get(label.lower())
        if unsafe is None:
            message = f"{shown(label)} is not a label; give safe or unsafe (0 or 1), a tab, and the text"
            policy.reject([Fault(str(file), number, "label", message)])
        elif not text:
            message = "is missing; give the label, a tab, and the text"
            policy.reject([Fault(str(file), number, "text", message)])
        elif found.setdefault(text, (unsafe, number))[0] != unsafe:
            message = f"line {found[text][1]} has the same text with the other label; keep one of them"
            policy.reject([Fault(str(file), number, "label", message)])
    return LabelledTexts(list(found), np.array([unsafe for unsafe, _ in found.values()], bool))


@dataclass(frozen=True, slots=True)
class TextExample:
    """One text to learn."""

    kind: str  # title, summary or body
    history: Rows  # int32 [h], articles that the reader clicked before, oldest first; empty: no reader
    source: str  # a text to write from; "" if there is none
    target: str  # the text to write
    article: int  # row of the article that the target comes from

    @property
    def task(self) -> str:
        """Its task: a title without a source is "interest" or, without a reader, "plain"."""
        if self.kind != "title" or self.source:
            return self.kind
        return "interest" if len(self.history) else "plain"


def click_examples(
    table: ArticleTable, examples: Sequence[ImpressionExample], *, articles: Collection[int] | None = None
) -> list[TextExample]:
    """The title of every clicked article, given the reader, and at an article's first click also its body.

    One body per article: bodies are long, and most clicks fall on few articles. Only clicks on the rows
    `articles` count, if these are given.
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

    At most eight titles per reader are taken, spread evenly over the longest history except its first click.
    """
    longest: dict[str, Rows] = {}
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
    the abstract from title and category, and both together.
    """
    texts = []
    for row in rows:
        title, abstract = table.titles[row], table.abstracts[row]
        if not title:
            continue
        texts.append(TextExample("title", NO_HISTORY, abstract, title, row))
        if abstract:
            source = _about(table, row)
            texts.append(TextExample("summary", NO_HISTORY, source, abstract, row))
            texts.append(TextExample("body", NO_HISTORY, source, body(title, abstract), row))
    return texts


def approved_examples(table: ArticleTable, texts: Iterable[ApprovedText]) -> list[TextExample]:
    """Texts that editors approved or edited, in their order, each from its article as a server sends it."""
    rows = ((one, table.row(one.article)) for one in texts)
    return [TextExample(one.kind, NO_HISTORY, table.texts[row], one.text, row) for one, row in rows if row]


def _about(table: ArticleTable, row: int) -> str:
    title, category = table.titles[row], table.categories[row]
    return f"{title} ({category})" if category else title


def body(title: str, abstract: str) -> str:
    """An article: its headline, and on the next line its text."""
    return f"{title}\n{abstract}"


def first_shown_in(
    later: Sequence[ImpressionExample], earlier: Sequence[ImpressionExample]
) -> frozenset[int]:
    """Rows of the articles that later impressions show and that no earlier impression or history holds."""
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
        Clicks of `train`, also those within its histories, and every article except those that only
        `validation` shows; then clicks of `validation` on exactly those, and examples of those articles, or
        if there are none, clicks of `validation` on any article.
    """
    unseen = first_shown_in(validation, train)
    known = [row for row in range(1, len(table)) if row not in unseen]
    to_learn = click_examples(table, train) + history_examples(table, train) + article_examples(table, known)
    to_validate = click_examples(table, validation, articles=unseen) + article_examples(table, sorted(unseen))
    return to_learn, to_validate or click_examples(table, validation)


def history_text(table: ArticleTable, history: Rows) -> str:
    """Titles of a history joined by line breaks, oldest first, as a client of `generate` sends them."""
    return "\n".join(history_titles(table, history))


def history_titles(table: ArticleTable, history: Rows) -> tuple[str, ...]:
    """Titles of a history, each on one line, oldest first; articles without one are left out."""
    titles = (" ".join(table.titles[row].split()) for row in history.tolist())
    return tuple(title for title in titles if title)
