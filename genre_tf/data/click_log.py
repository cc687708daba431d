"""Click logs for Python: what readers were shown and clicked, with the articles."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import Article, ArticleTable, Impression, Split
from genre_tf.data.columns import Block, Floats, ImpressionColumns, ImpressionExample, Ints, Rows, ends_of
from genre_tf.data.counters import COUNTERS, Counters, count_log, epoch_seconds, epoch_time
from genre_tf.data.mind import read_split
from genre_tf.data.signals import DEFAULTS, click_weights
from genre_tf.errors import InputError


class Articles(Sequence[Article]):
    """Articles of a log, in its order.

    Args:
        table: the same articles behind a padding article.

    Example:
        >>> articles = genre_tf.data.read_mind(mind, split="train").articles
        >>> articles.titles[0] == articles[0].title
        True
    """

    def __init__(self, table: ArticleTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table) - 1

    def __getitem__(self, number: Any) -> Any:
        return self.table.articles[1:][number]

    def __iter__(self) -> Iterator[Article]:
        return iter(self.table.articles[1:])

    @property
    def ids(self) -> list[str]:
        """Ids of the articles."""
        return self.table.news_ids[1:]

    @property
    def titles(self) -> list[str]:
        """Titles of the articles."""
        return self.table.titles[1:]

    @property
    def abstracts(self) -> list[str]:
        """Abstracts of the articles; empty where there is none."""
        return self.table.abstracts[1:]

    @property
    def categories(self) -> list[str]:
        """Categories and subcategories that occur, sorted: an argument of `NewsEncoder`."""
        return sorted({*self.table.categories, *self.table.subcategories} - {""})

    def __repr__(self) -> str:
        return f"Articles({len(self):,} articles)"


@dataclass(frozen=True, eq=False, repr=False)
class ClickLog:
    """A log: impressions, and the articles that they name. `read_mind` reads one.

    Attributes:
        table: every article behind a padding article, whose rows the impressions name.
        examples: the impressions, in the order of the log.
        columns: further columns of the candidates, see `impression_batches`.

    Example:
        >>> log = genre_tf.data.read_mind(mind, split="train").head(100)
        >>> len(log)
        100
    """

    table: ArticleTable
    examples: ImpressionColumns
    columns: Mapping[str, Sequence[npt.NDArray[np.float32]]] = field(default_factory=dict)

    @cached_property
    def articles(self) -> Articles:
        """The articles of the log."""
        return Articles(self.table)

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        if not len(self):
            return f"ClickLog(no impressions; {len(self.articles):,} articles)"
        seconds = self.examples.seconds
        first, last = (epoch_time(int(each)) for each in (seconds.min(), seconds.max()))
        blocks = [*self.examples.blocks("user_id", "labels")]
        readers = len({user for block in blocks for user in block.user_id})
        clicks = sum(int(block.labels.sum()) for block in blocks)
        return (
            f"ClickLog({len(self):,} impressions of {readers:,} readers with {clicks:,} clicks, "
            f"{first:%Y-%m-%d} to {last:%Y-%m-%d}; {len(self.articles):,} articles)"
        )

    def head(self, impressions: int) -> "ClickLog":
        """The first impressions, with all articles."""
        return replace(self, examples=self.examples[:impressions])

    def batches(
        self, model: Any, batch_size: int = 32, *, shuffle: bool = False, seed: int | None = None
    ) -> Any:
        """Batches for `fit`, `evaluate` and `predict` of a model.

        The frozen layers of the model's news encoder are computed here, once for each article. Batches for a
        model that was made in the scope of a `tf.distribute` strategy are shared among its replicas.

        Args:
            model: a `Ranker` or `TwoTower`; each draws the candidates that it learns from.
            batch_size: B, impressions (of `TwoTower` clicks) in a batch.
            shuffle: whether each epoch has another order.
            seed: of the shuffling and of random draws; None: different each time.

        Returns:
            A dataset of `(x, y)` or `(x, y, weights)`; y is float32 [B, C], 1 for a click, 0 for an article
            shown without one, -1 for padding.

        Raises:
            InputError: there are no impressions to learn from.
        """
        return model.batches(self, batch_size, shuffle=shuffle, seed=seed)

    def texts(
        self, writer: Any, batch_size: int = 8, *, tasks: Mapping[str, float] | None = None, seed: int = 0
    ) -> Any:
        """Batches of texts to learn for a `Writer`, endless and in random order.

        Args:
            writer: the writer, whose tokenizer and lengths are used.
            batch_size: texts in a batch.
            tasks: share of each task: title, summary, body, answer, interest (a title that a reader clicked,
                without its text) and plain (a title from nothing); None: those of the pipeline.
            seed: of the order.

        Returns:
            A dataset of dicts, for `fit` with `steps_per_epoch`.

        Raises:
            InputError: a task is unknown, or there is no text for any.
        """
        return writer.batches(self, batch_size, tasks=tasks, seed=seed)

    @classmethod
    def of_texts(
        cls,
        histories: Sequence[Sequence[str]],
        candidates: Sequence[Sequence[str]],
        labels: Sequence[npt.NDArray[np.float32]] | None = None,
    ) -> "ClickLog":
        """A log of titles, without ids, times or counters.

        Args:
            histories: titles that each reader clicked, oldest first.
            candidates: titles that each reader chooses among.
            labels: float32 [c] for each reader, 1 for a click; None: zeros.
        """
        titles = dict.fromkeys(text for rows in (histories, candidates) for row in rows for text in row)
        titles.pop("", None)  # row 0, a zero vector
        row_of = {"": 0, **{title: number for number, title in enumerate(titles, 1)}}
        table = ArticleTable(Article(str(row_of[title]), "", "", title, "") for title in titles)
        examples = []
        for number, (history, shown) in enumerate(zip(histories, candidates, strict=True)):
            rows = np.asarray([row_of[title] for title in history], np.int32)
            example = ImpressionExample(
                impression=number,
                user_id="",
                time_hours=0.0,
                history=rows[rows > 0],
                candidates=np.asarray([row_of[title] for title in shown], np.int32),
                labels=np.zeros(len(shown), np.float32) if labels is None else labels[number],
                counters=np.zeros((len(shown), len(COUNTERS)), np.float32),
            )
            examples.append(example)
        return cls(table, ImpressionColumns.of(examples))


def read_mind(
    folder: str | Path,
    *,
    split: str = "train",
    earlier: Sequence[str] = (),
    max_history: int = 50,
    max_bad_rows: int = 0,
) -> ClickLog:
    """Read one split of a data set in MIND's format.

    Args:
        folder: the data set; it holds a folder for each split, with `news.tsv` and `behaviors.tsv`, plain or
            gzipped.
        split: name of the folder.
        earlier: splits whose clicks and views the counters know beforehand.
        max_history: newest clicks that are kept of a history.
        max_bad_rows: faulty rows that may be skipped.

    Returns:
        The log. Counters of its impressions know only what happened before each of them.

    Raises:
        InputError: there is no such split, or a file is faulty; the message names file, line and field.

    Example:
        >>> log = genre_tf.data.read_mind(mind, split="train")
        >>> len(log.articles) > 0
        True
    """
    folder, counters = Path(folder), Counters()
    for name in earlier:
        before = read_split(folder, name, max_bad_rows)
        build_examples(before, ArticleTable.of(before), counters, max_history)
    found = read_split(folder, split, max_bad_rows)
    table = ArticleTable.of(found)
    examples = build_examples(found, table, counters, max_history)
    if not len(examples):
        raise InputError(f"{folder / split} holds no impression")
    return ClickLog(table, examples)


def build_examples(
    split: Split, table: ArticleTable, counters: Counters, max_history: int = 50
) -> ImpressionColumns:
    """Turns a split's log into examples, one per impression, in its order, readers without history included.

    Args:
        split: the log.
        table: gives the articles' rows; usually built from this split and others.
        counters: counters before the log; afterwards they include the whole log, and the publishing times of
            the table's articles.
        max_history: the newest clicks that are kept of each history.

    Raises:
        InputError: the counters include events that are not earlier than the log.
    """
    columns = ImpressionColumns([block_of(split.impressions, table, max_history)])
    count_log(columns, table, counters)
    return columns


def block_of(
    impressions: Sequence[Impression],
    table: ArticleTable,
    max_history: int,
    *,
    first: int = 0,
    signals: SignalsConfig = DEFAULTS,
) -> Block:
    """Turns impressions into columns, with zeros as counters; depends on nothing but its arguments.

    Args:
        impressions: consecutive rows of a log; all with signals or all without.
        table: gives the articles' rows.
        max_history: the newest known clicks that are kept of each history.
        first: row number of the first impression.
        signals: how dwell time, comments and shares become weights.
    """
    reads, shows = [row.history for row in impressions], [row.candidates for row in impressions]
    history_ends, candidate_ends = (ends_of([len(ids) for ids in each]) for each in (reads, shows))
    history = table.rows(list(chain.from_iterable(reads)))
    kept, kept_ends = newest_known(history, history_ends, max_history)
    clicked = [row.clicked or (False,) * len(row.candidates) for row in impressions]
    labels = np.fromiter(chain.from_iterable(clicked), np.uint8, int(candidate_ends[-1]))
    weights: list[Floats | None] = [None, None]
    if impressions and impressions[0].signals is not None:
        given = [row.signals or () for row in impressions]
        of_read, of_shown = (
            np.concatenate([click_weights(*row, signals) for row in zip(ids, given, strict=True)])
            for ids in (reads, shows)
        )
        weights = [of_read[kept], np.where(labels > 0, of_shown, np.float32(1))]
    return Block(
        impression=np.arange(first, first + len(impressions)),
        seconds=np.array([epoch_seconds(row.time) for row in impressions], np.int64),
        user_id=[row.user_id for row in impressions],
        history_ends=kept_ends,
        history=history[kept],
        candidate_ends=candidate_ends,
        candidates=table.rows(list(chain.from_iterable(shows))),
        labels=labels,
        counters=np.zeros((len(labels), len(COUNTERS)), np.float32),
        history_weights=weights[0],
        label_weights=weights[1],
    )


def newest_known(rows: Rows, ends: Ints, most: int) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Which clicks of some histories are kept: the newest `most` whose article is known.

    Args:
        rows: int32 [h], article rows, 0 if unknown, oldest first in each history.
        ends: int64 [n + 1], where each history begins, and where the last one ends.
        most: clicks of each history.

    Returns:
        bool [h]; and the ends of what is kept, int64 [n + 1].
    """
    known = np.concatenate([[0], np.cumsum(rows > 0)])  # before each click
    newer = np.repeat(known[ends[1:]], np.diff(ends)) - known[1:]
    kept = (rows > 0) & (newer < most)
    return kept, np.concatenate([[0], np.cumsum(kept)])[ends]
