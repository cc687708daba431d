"""Slices of impressions that are reported separately: new readers, new articles and others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Impression
from genre_tf.data.manifest import SPLITS
from genre_tf.data.records import read_articles, read_examples

FEW_CLICKS = 5


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The readers and articles that occur in the training log, in any role."""

    user_ids: frozenset[str]
    news_ids: frozenset[str]

    @classmethod
    def in_log(cls, impressions: Sequence[Impression]) -> "Seen":
        """Everything that a log mentions: its readers, what they had read and what they were shown."""
        return cls(
            user_ids=frozenset(row.user_id for row in impressions),
            news_ids=frozenset(
                id for row in impressions for ids in (row.history, row.candidates) for id in ids
            ),
        )

    @classmethod
    def in_prepared(cls, folder: Path) -> "Seen":
        """Everything that the examples of a prepared folder mention, including those kept for validation.

        Raises:
            InputError: not a prepared folder, or a damaged one.
        """
        news_ids = read_articles(folder).news_ids
        examples = read_examples(folder, SPLITS[0]) + read_examples(folder, SPLITS[1])
        return cls(
            user_ids=frozenset(user for block in examples.blocks("user_id") for user in block.user_id),
            news_ids=frozenset(news_ids[row] for row in examples.articles("history", "candidates")),
        )


def slice_masks(impressions: Sequence[Impression], seen: Seen | None) -> dict[str, npt.NDArray[np.bool_]]:
    """Which impressions belong to which slice; an impression may be in several.

    Args:
        impressions: a log.
        seen: what occurs in the training log; None leaves out the two slices that need it.

    Returns:
        For each slice bool [impressions]:
        "all"; "no_history", readers without a click so far; "at_most_5_clicks", readers with five clicks
        or fewer, including none; "unseen_reader", readers that are not in the training log;
        "unseen_article", a clicked article that the training log neither shows nor has in a history.
    """
    clicks = np.array([len(row.history) for row in impressions], np.int64)
    masks = {
        "all": np.ones(len(impressions), bool),
        "no_history": clicks == 0,
        f"at_most_{FEW_CLICKS}_clicks": clicks <= FEW_CLICKS,
    }
    if seen is not None:
        masks["unseen_reader"] = _mask(row.user_id not in seen.user_ids for row in impressions)
        masks["unseen_article"] = _mask(
            any(news_id not in seen.news_ids for news_id in clicked_ids(row)) for row in impressions
        )
    return masks


def clicked_ids(impression: Impression) -> list[str]:
    """The articles that were clicked in an impression; empty if the log has no labels."""
    if impression.clicked is None:
        return []
    return [
        news_id for news_id, click in zip(impression.candidates, impression.clicked, strict=True) if click
    ]


def _mask(flags: Iterable[bool]) -> npt.NDArray[np.bool_]:
    return np.array(list(flags), bool)
