"""Texts to learn from: of articles, with newer ones held out, and texts that people judged."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article, Impression
from genre_tf.data.examples import first_of_validation
from genre_tf.data.lines import Fault, FaultPolicy, read_lines, shown
from genre_tf.data.mind import epoch_seconds, read_split
from genre_tf.errors import InputError

LABELS = {"safe": False, "0": False, "unsafe": True, "1": True}


@dataclass(frozen=True)
class NewsTexts:
    """Texts of articles, each once: titles, and abstracts if there are any."""

    titles: tuple[str, ...]
    abstracts: tuple[str, ...]

    @classmethod
    def of(cls, articles: Iterable[Article], without: Collection[str] = frozenset()) -> "NewsTexts":
        """Texts in the order of the articles, each once, without blank ones and those of `without`."""
        articles = list(articles)

        def distinct(texts: Iterable[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(text for text in texts if text.strip() and text not in without))

        return cls(
            distinct(article.title for article in articles),
            distinct(article.abstract for article in articles),
        )

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
    share and `max_history` (`genre_tf.data.text_examples.first_shown_in`), so that a writer is not validated
    on texts that were learned here. Texts that an older article has verbatim are not held out.

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
    newest = first_shown_at_the_end(impressions, validation_share, max_history)
    learned = NewsTexts.of(article for key, article in articles.items() if key not in newest)
    held_out = NewsTexts.of((articles[key] for key in articles if key in newest), without={*learned.all})
    if not learned.titles or not held_out.titles:
        raise InputError(
            f"{data}: {len(learned.titles)} titles to learn and {len(held_out.titles)} held out of the "
            f"newest {validation_share:g} of the log: both are needed, so give more data or another "
            "pretrain.validation_share"
        )
    return Corpus(learned, held_out, frozenset(articles))


def first_shown_at_the_end(
    impressions: Sequence[Impression], share: float, max_history: int
) -> frozenset[str]:
    """Ids of articles that the newest impressions show and that no earlier impression or history holds.

    Args:
        impressions: in any order.
        share: share of the impressions, newest by time; those of the same time stay together.
        max_history: newest clicks of a history that count.
    """
    seconds = [epoch_seconds(each.time) for each in impressions]
    first = first_of_validation(seconds, share) if impressions else None
    if first is None:
        return frozenset()
    earlier: set[str] = set()
    shown: set[str] = set()
    for each, time in zip(impressions, seconds, strict=True):
        if time >= first:
            shown.update(each.candidates)
        else:
            earlier.update(each.candidates, each.history[-max_history:])
    return frozenset(shown - earlier)


def read_unseen(data: Path, split: str, corpus: Corpus, max_bad_rows: int = 0) -> NewsTexts:
    """Texts of another split's articles; articles and texts of the corpus are left out.

    Raises:
        InputError: a wrong path or file, or no such article.
    """
    articles = read_split(data, split, max_bad_rows).articles
    known = {*corpus.learned.all, *corpus.held_out.all}
    texts = NewsTexts.of(
        (article for key, article in articles.items() if key not in corpus.article_ids), without=known
    )
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
        fault = _fault(label, text, found)
        if fault is not None:
            policy.reject([Fault(str(file), number, *fault)])
        else:
            found.setdefault(text, (LABELS[label.lower()], number))
    return LabelledTexts(list(found), np.array([unsafe for unsafe, _ in found.values()], bool))


def _fault(label: str, text: str, found: dict[str, tuple[bool, int]]) -> tuple[str, str] | None:
    """Field and message of a line's fault; None if the line is valid."""
    if label.lower() not in LABELS:
        return "label", f"{shown(label)} is not a label; give safe or unsafe (0 or 1), a tab, and the text"
    if not text:
        return "text", "is missing; give the label, a tab, and the text"
    earlier = found.get(text)
    if earlier is not None and earlier[0] != LABELS[label.lower()]:
        return "label", f"line {earlier[1]} has the same text with the other label; keep one of them"
    return None
