"""Which of the written texts comes first."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf


class Written(NamedTuple):
    """Texts for a batch of readers, each column a candidate.

    Args:
        text: string [batch, n], UTF-8.
        interest: float32 [batch, n], the click model's probability that this reader clicks.
        log_probability: float32 [batch, n], the language model's, mean per token.
        grounding: float32 [batch, n], share of the claims that stand in the evidence.
        safe: bool [batch, n].
    """

    text: Any
    interest: Any
    log_probability: Any
    grounding: Any
    safe: Any


@dataclass(frozen=True, kw_only=True)
class RankingWeights:
    """What a text is worth: a weighted sum.

    Args:
        interest: of the click probability.
        grounding: of the grounded share; a wholly invented text loses as much as this.
        log_probability: per nat per token; small, it only decides between texts of like interest.
    """

    interest: float = 1.0
    grounding: float = 0.5
    log_probability: float = 0.05


def rank(written: Written, weights: RankingWeights) -> Written:
    """Sort each row, best first.

    Unsafe texts come last; before them empty ones, before those repetitions of a better text (the same but
    for case, spaces and punctuation).

    Args:
        written: in any order.
        weights: what counts how much.

    Returns:
        The same texts, sorted; numbers that were not finite are 0.
    """
    written = written._replace(
        interest=_finite(written.interest),
        log_probability=_finite(written.log_probability),
        grounding=_finite(written.grounding),
    )
    value = (
        weights.interest * written.interest
        + weights.grounding * written.grounding
        + weights.log_probability * written.log_probability
    )
    same = _normal(written.text)
    # Steps far apart: however much a text is worth, it does not climb over one.
    value = tf.clip_by_value(value, -1e3, 1e3) - 1e4 * tf.cast(_repeated(same, value), tf.float32)
    value -= 1e5 * tf.cast(same == "", tf.float32) + 1e6 * tf.cast(~written.safe, tf.float32)
    order = tf.argsort(value, axis=1, direction="DESCENDING", stable=True)
    return Written(*(tf.gather(column, order, batch_dims=1) for column in written))


def _finite(values: Any) -> Any:
    return tf.where(tf.math.is_finite(values), values, 0.0)


def _normal(text: Any) -> Any:
    return tf.strings.regex_replace(tf.strings.lower(text, encoding="utf-8"), r"[^\p{L}\p{N}]+", "")


def _repeated(text: Any, value: Any) -> Any:
    """Whether an equal text of the same row is worth more, or as much and stands earlier: bool [batch, n]."""
    column = tf.range(tf.shape(text)[1])
    equal = text[:, :, None] == text[:, None, :]
    better = value[:, None, :] > value[:, :, None]
    tie = (value[:, None, :] == value[:, :, None]) & (column[None, None, :] < column[None, :, None])
    return tf.reduce_any(equal & (better | tie), axis=2)
