"""AdaLoRA's budget: in the course of a training, fewer and fewer singular values, where they matter most."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from genre_tf.layers.block import AdaptiveLowRank

_SMOOTHED = 0.85  # share of the past in the averages of sensitivity and of its uncertainty, as in the paper
# Shares of the steps with all values at the beginning, and with the final number at the end.
_WARMUP, _FINAL = 0.1, 0.3
_EVERY = 10  # steps between two choices, so that a value set to zero can still come back


class RankBudget:
    """Sets the least important singular values of `AdaptiveLowRank` updates to zero, over all of them.

    A value's importance is its own and the mean of its two vectors' entries: the smoothed sensitivity |weight
    times gradient| times the smoothed change of the sensitivity. The number of values that stay falls with
    the third power of the remaining steps.

    Args:
        updates: the updates, at least one.
        steps: number of steps of the training.

    Source: Zhang et al., "AdaLoRA", 2023, equations 7 to 12.
    """

    def __init__(self, updates: Sequence[AdaptiveLowRank], steps: int) -> None:
        self.updates, self.steps = list(updates), steps
        self.step = _variable(tf.zeros([], tf.int64))
        weights = self._weights()
        self.sensitivity = [_variable(tf.zeros(weight.shape)) for weight in weights]
        self.uncertainty = [_variable(tf.zeros(weight.shape)) for weight in weights]

    @classmethod
    def of(cls, model: Any, steps: int) -> "RankBudget | None":
        """The budget of a Keras model's updates; None if it has none of this kind."""
        updates = [layer for layer in model._flatten_layers() if isinstance(layer, AdaptiveLowRank)]
        return cls(updates, steps) if updates else None

    @property
    def variables(self) -> list[Any]:
        """Everything that the next choice depends on, besides the weights."""
        return [self.step, *self.sensitivity, *self.uncertainty]

    def after_step(self, gradients: dict[int, Any]) -> None:
        """Note the gradients of a step, by the `id` of their weights, and choose if it is time."""
        self.step.assign_add(1)
        for weight, mean, spread in zip(self._weights(), self.sensitivity, self.uncertainty, strict=True):
            now = tf.abs(tf.convert_to_tensor(weight) * gradients[id(weight)])
            mean.assign(_SMOOTHED * mean + (1 - _SMOOTHED) * now)
            spread.assign(_SMOOTHED * spread + (1 - _SMOOTHED) * tf.abs(now - mean))
        done = tf.cast(self.step, tf.float32) / self.steps
        due = (self.step % _EVERY == 0) | (done >= 1 - _FINAL)
        least = tf.where(due, self._least_kept(done), -1.0)
        for update, score in zip(self.updates, self._scores(), strict=True):
            update.values.assign(tf.where(score >= least, tf.convert_to_tensor(update.values), 0.0))

    def _weights(self) -> list[Any]:
        return [weight for update in self.updates for weight in (update.values, update.left, update.right)]

    def _scores(self) -> list[tf.Tensor]:
        """The importance of each value, float32 [values] of each update."""
        each = [mean * spread for mean, spread in zip(self.sensitivity, self.uncertainty, strict=True)]
        return [
            value + tf.reduce_mean(left, 0) + tf.reduce_mean(right, 1)
            for value, left, right in zip(each[::3], each[1::3], each[2::3], strict=True)
        ]

    def _least_kept(self, done: tf.Tensor) -> tf.Tensor:
        """The importance that a value needs to stay, float32 [], after this share of the steps."""
        first = sum(update.values.shape[0] for update in self.updates)
        last = min(first, sum(update.rank for update in self.updates))
        left = tf.clip_by_value((1 - _FINAL - done) / (1 - _FINAL - _WARMUP), 0.0, 1.0)
        kept = tf.cast(tf.round(last + (first - last) * left**3), tf.int32)
        return tf.sort(tf.concat(self._scores(), 0), direction="DESCENDING")[kept - 1]


def _variable(value: tf.Tensor) -> tf.Variable:
    """Every replica notes the same: the gradients are already sums over all of them."""
    return tf.Variable(value, trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
