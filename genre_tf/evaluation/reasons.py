"""Sample recommendations: what a reader had read, what they get, and which clicks led to it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation.click_model import click_probability
from genre_tf.evaluation.scored_log import evenly
from genre_tf.evaluation.scoring import RankerScorer

MOST_READERS = 8
LEAST_CLICKS = 3  # with fewer there is hardly a choice of reasons
_FIRST_PLACES = 5


def sampled_impressions(
    examples: Sequence[ImpressionExample], clicked: Sequence[npt.NDArray[np.bool_]]
) -> list[int]:
    """The numbers of impressions to show to people.

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
    return evenly(list(first.values()), MOST_READERS)


def recommended_sample(
    scorer: RankerScorer,
    logits: npt.NDArray[np.float32],
    example: ImpressionExample,
    clicked: npt.NDArray[np.bool_],
    table: ArticleTable,
) -> dict[str, Any]:
    """The best articles of an impression, with the attention over the reader's history.

    Args:
        scorer: the click model.
        logits: its scores, float32 [candidates].
        example: the impression.
        clicked: bool [candidates].
        table: the articles.

    Returns:
        "reader", "history" (titles, oldest first), "candidates" (number shown), and "recommended", best
        first: "title", "category", "probability", "clicked", and "weights" over the history, which sum to 1.
    """
    best = np.argsort(-logits, kind="stable")[:_FIRST_PLACES]
    rows = example.candidates[best]
    clicks = tf.constant(scorer.vectors[example.history][None])  # [1, clicks, dimension]
    real = tf.ones(clicks.shape[:2], tf.bool)
    weights, _ = scorer.ranker.attention(clicks, real, tf.constant(scorer.vectors[rows][None]))
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
            for at, row, of_clicks in zip(best.tolist(), rows.tolist(), weights.numpy()[0], strict=True)
        ],
    }
