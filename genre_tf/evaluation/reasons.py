"""Sample recommendations: what a reader had read, what they get, and which clicks led to it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation.click_model import click_probability
from genre_tf.evaluation.scoring import RankerScorer, Scores

MOST_READERS = 8
LEAST_CLICKS = 3  # with fewer there is hardly a choice of reasons
_FIRST_PLACES = 5


def sampled_impressions(
    examples: Sequence[ImpressionExample], clicked: Sequence[npt.NDArray[np.bool_]]
) -> list[int]:
    """The numbers of the impressions that `recommended_samples` shows.

    Args:
        examples: the impressions.
        clicked: per impression bool [candidates].

    Returns:
        The first impression with a history and a click of each of at most `MOST_READERS` evenly picked
        readers.
    """
    first: dict[str, int] = {}
    for at, example in enumerate(examples):
        if len(example.history) >= LEAST_CLICKS and clicked[at].any():
            first.setdefault(example.user_id, at)
    rows = list(first.values())
    count = min(MOST_READERS, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def recommended_samples(
    scorer: RankerScorer,
    scores: Scores,
    examples: Sequence[ImpressionExample],
    clicked: Sequence[npt.NDArray[np.bool_]],
    table: ArticleTable,
) -> list[dict[str, Any]]:
    """The best articles of some impressions, with the attention over the reader's history.

    Args:
        scorer: the click model.
        scores: its logits, per impression float32 [candidates].
        examples: the impressions.
        clicked: per impression bool [candidates].
        table: the articles.

    Returns:
        For each of the `sampled_impressions`: "reader", "history" (titles, oldest first), "candidates"
        (number shown), and "recommended", best first: "title", "category", "probability", "clicked", and
        "weights" over the history, which sum to 1.
    """
    picked = sampled_impressions(examples, clicked)
    return [_sample(scorer, scores[at], examples[at], clicked[at], table) for at in picked]


def _sample(
    scorer: RankerScorer,
    logits: npt.NDArray[np.float32],
    example: ImpressionExample,
    clicked: npt.NDArray[np.bool_],
    table: ArticleTable,
) -> dict[str, Any]:
    best = np.argsort(-logits, kind="stable")[:_FIRST_PLACES]
    rows = example.candidates[best]
    weights = _attention(scorer, example.history, rows)
    return {
        "reader": example.user_id,
        "history": [table.titles[row] for row in example.history.tolist()],
        "candidates": len(example.candidates),
        "recommended": [
            {
                "title": table.titles[row],
                "category": table.categories[row],
                "probability": float(click_probability(logits[at])),
                "clicked": bool(clicked[at]),
                "weights": [round(float(weight), 4) for weight in of_clicks],
            }
            for at, row, of_clicks in zip(best.tolist(), rows.tolist(), weights, strict=True)
        ],
    }


def _attention(
    scorer: RankerScorer, history: npt.NDArray[np.int32], candidates: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """float32 [candidates, clicks]."""
    clicks = tf.constant(scorer.vectors[history][None])  # [1, clicks, dimension]
    shown = tf.constant(scorer.vectors[candidates][None])
    weights, _ = scorer.ranker.attention(clicks, tf.ones(clicks.shape[:2], tf.bool), shown)
    return np.asarray(weights.numpy()[0], np.float32)
