"""How the next token is chosen: each strategy is one frozen dataclass.

A strategy turns logits into token ids without any state. Its randomness is one uniform number per row, given
from outside, so that a row's text depends only on its own seed, whatever else is in the batch.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

IMPOSSIBLE = -1e9  # finite, so that a row in which everything is forbidden does not become NaN


class Strategy(Protocol):
    """Chooses one token per row."""

    def choose(self, logits: Any, uniform: Any) -> Any:
        """Choose a token.

        Args:
            logits: float32 [rows, vocabulary].
            uniform: float32 [rows] in [0, 1), new for each step.

        Returns:
            int32 [rows].
        """


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """The likeliest token; of equal ones the one with the smallest id, as in `transformers`."""

    def choose(self, logits: Any, uniform: Any) -> Any:
        """Choose a token; `uniform` is ignored. Shapes as in `Strategy`."""
        del uniform
        return tf.argmax(logits, axis=-1, output_type=tf.int32)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Samples from the model's distribution after temperature and cuts.

    Args:
        temperature: divides the logits; near 0 it is greedy.
        top_k: keep only this many of the likeliest tokens; 0: all of them.
        top_p: of these, keep the fewest whose probabilities reach this sum.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020 (nucleus sampling).
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise ValueError(f"temperature must be above 0, top_k at least 0, top_p in (0, 1]; got {self}")

    def choose(self, logits: Any, uniform: Any) -> Any:
        """Sample by the inverse of the cumulative distribution. Shapes as in `Strategy`."""
        vocabulary = logits.shape[-1]
        kept = min(self.top_k or vocabulary, vocabulary)
        if kept == vocabulary and self.top_p == 1.0:  # no cut, so no need to sort
            return _draw(tf.nn.softmax(logits / self.temperature), uniform)
        best, ids = tf.math.top_k(logits / self.temperature, k=kept)  # [rows, kept], likeliest first
        probability = tf.nn.softmax(best)
        before = tf.cumsum(probability, axis=-1, exclusive=True)
        probability = tf.where(before < self.top_p, probability, 0.0)  # the likeliest always stays
        return tf.gather(ids, _draw(probability, uniform), batch_dims=1)


def _draw(weight: Any, uniform: Any) -> Any:
    cumulative = tf.cumsum(weight, axis=-1)
    threshold = uniform[:, None] * cumulative[:, -1:]  # weights need not sum to one
    index = tf.reduce_sum(tf.cast(cumulative <= threshold, tf.int32), axis=-1)
    # Rounding can move the threshold to the very end: step back to the last token with a positive weight.
    last = weight.shape[-1] - 1 - tf.argmax(tf.reverse(weight, [-1]) > 0, axis=-1, output_type=tf.int32)
    return tf.minimum(index, last)


def uniforms(seeds: Any, samples: int, steps: int) -> Any:
    """One uniform number for every row, sample and step, from the row's own seed.

    Args:
        seeds: int64 [batch].
        samples: number of texts per row.
        steps: number of tokens per text.

    Returns:
        float32 [batch, samples, steps] in [0, 1). Equal seeds give equal numbers, on every device (Philox).
    """

    def of_row(seed: Any) -> Any:
        return tf.random.stateless_uniform([samples, steps], tf.stack([seed, 0]), alg="philox")

    numbers: Any = tf.TensorSpec([samples, steps], tf.float32)
    return tf.map_fn(of_row, seeds, fn_output_signature=numbers)
