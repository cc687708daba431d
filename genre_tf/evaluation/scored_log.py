"""The log that a run is measured on or predicts: its impressions, articles, past counters and slices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, compress
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from genre_tf.config import RunConfig
from genre_tf.data.articles import ArticleTable, Impression, Split
from genre_tf.data.click_log import block_of
from genre_tf.data.columns import ImpressionColumns
from genre_tf.data.counters import Counters, count_log
from genre_tf.data.mind import read_split
from genre_tf.data.prepared import COUNTERS_FILE, SPLITS, read_articles, read_examples
from genre_tf.errors import InputError

Row = TypeVar("Row")

FEW_CLICKS = 5
BLOCK_IMPRESSIONS = 4096
"""Number of examples that are scored at a time: what a scorer needs besides stays small."""


@dataclass(frozen=True)
class ScoredLog:
    """A split, prepared for any model."""

    split: Split
    table: ArticleTable  # without articles that are in no impression: they are not embedded
    examples: ImpressionColumns  # in the order of the log
    max_history: int  # newest clicks that a model reads

    def blocks(self) -> Iterator[ImpressionColumns]:
        """The examples, `BLOCK_IMPRESSIONS` at a time."""
        for start in range(0, len(self.examples), BLOCK_IMPRESSIONS):
            yield self.examples[start : start + BLOCK_IMPRESSIONS]

    def clicked(self) -> list[npt.NDArray[np.bool_]]:
        """Per impression bool [candidates]."""
        if not self.split.labelled:
            raise InputError(
                f"the log of split {self.split.name!r} has no labels (N1 instead of N1-0 or N1-1) and "
                "cannot be measured; `genre predict` writes its ranks"
            )
        clicked = [np.array(impression.clicked, bool) for impression in self.split.impressions]
        if not any(row.any() for row in clicked):
            raise InputError(
                f"none of the {len(clicked)} impressions of split {self.split.name!r} has a click, so "
                "nothing can be measured; give a split with clicks"
            )
        return clicked


def read_log(
    run: Path,
    config: RunConfig,
    data: Path,
    split: str,
    *,
    with_counters: bool = True,
    counters_from: Sequence[Path] = (),
    max_bad_rows: int = 0,
) -> ScoredLog:
    """Read a split and the counters before each of its impressions.

    Counters start from the state after the run's training log. If the split is not entirely later, for
    example the training split itself, they start empty: otherwise they would know its future.
    """
    log = read_split(data, split, max_bad_rows)
    named = {id for row in log.impressions for ids in (row.history, row.candidates) for id in ids}
    table = ArticleTable(article for news_id, article in log.articles.items() if news_id in named)
    examples = ImpressionColumns([block_of(log.impressions, table, config.data.max_history)])
    if with_counters:
        state = counters_before(run, log.impressions)
        folders = [folder.absolute() for folder in counters_from]
        others = [read_split(folder.parent, folder.name, max_bad_rows) for folder in folders]
        for other in others:
            begins = _first_time(other.impressions)
            if state.newest is not None and begins <= state.newest:
                raise InputError(
                    f"--counters-from {other.name} begins at {begins}, but the run's counters already "
                    f"include everything up to {state.newest} from training; leave it out"
                )
        start = _first_time(log.impressions)
        overlapping: list[Impression] = []
        for impression in chain.from_iterable(other.impressions for other in others):
            if impression.time < start:
                state.observe(impression)
            else:  # an impression only sees what is older than itself
                overlapping.append(impression)
        count_log(examples + ImpressionColumns([block_of(overlapping, table, 0)]), table, state)
    return ScoredLog(log, table, examples, config.data.max_history)


def counters_before(run: Path, impressions: Sequence[Impression]) -> Counters:
    """The run's counters after training, or empty counters for a log that is not entirely later."""
    counters = Counters.load(run / "prepared" / COUNTERS_FILE)
    if counters.newest is not None and _first_time(impressions) <= counters.newest:
        return Counters()
    return counters


def evenly(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many of the rows, evenly picked."""
    count = min(most, len(rows))
    return [rows[at * len(rows) // count] for at in range(count)]


def _first_time(impressions: Sequence[Impression]) -> datetime:
    return min(impression.time for impression in impressions)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The readers and articles that occur in the training log, in any role."""

    user_ids: frozenset[str]
    news_ids: frozenset[str]


def seen_in_training(prepared: Path) -> Seen:
    """Everything that the examples of a prepared folder mention, including those kept for validation."""
    news_ids = read_articles(prepared).news_ids
    examples = read_examples(prepared, SPLITS[0]) + read_examples(prepared, SPLITS[1])
    return Seen(
        user_ids=frozenset(user for block in examples.blocks("user_id") for user in block.user_id),
        news_ids=frozenset(news_ids[row] for row in examples.articles("history", "candidates")),
    )


def slice_masks(impressions: Sequence[Impression], seen: Seen | None) -> dict[str, npt.NDArray[np.bool_]]:
    """Which impressions belong to which slice; an impression may be in several.

    Returns:
        For each slice bool [impressions]:
        "all"; "no_history", readers without a click so far; "at_most_5_clicks", readers with five clicks
        or fewer, including none; and, with `seen`, "unseen_reader", readers that are not in the training log;
        "unseen_article", a clicked article that the training log neither shows nor has in a history.
    """
    clicks = np.array([len(row.history) for row in impressions], np.int64)
    masks = {
        "all": np.ones(len(impressions), bool),
        "no_history": clicks == 0,
        f"at_most_{FEW_CLICKS}_clicks": clicks <= FEW_CLICKS,
    }
    if seen is not None:
        clicked = [compress(row.candidates, row.clicked or ()) for row in impressions]
        masks["unseen_reader"] = np.array([row.user_id not in seen.user_ids for row in impressions], bool)
        masks["unseen_article"] = np.array([not seen.news_ids.issuperset(ids) for ids in clicked], bool)
    return masks
