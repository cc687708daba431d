"""Click logits of articles retrieved from the whole pool, from similarities to the history and counters."""

from typing import Any

import keras
import tensorflow as tf

from genre_tf.data.counters import COUNTERS
from genre_tf.models.moment import moment_features


class PoolHead(keras.layers.Layer):
    """A linear layer over an article's similarities to the history and its `moment_features`.

    Its features have the same meaning for one of forty shown articles and for one of three hundred retrieved
    ones. Its few weights are computed exactly after the training of the ranker (`fit_pool_head`),
    and gradient steps do not change them: text must keep learning what the counters could explain.

    Args:
        similarities: S, the number of similarities to the history.
        view_counters: whether it may use views.
    """

    def __init__(self, similarities: int, view_counters: bool, name: str = "pool_head") -> None:
        super().__init__(name=name, dtype="float32")
        self.view_counters = view_counters
        moment = moment_features(tf.zeros([1, len(COUNTERS)]), view_counters).shape[-1]
        self.kernel = self.add_weight(
            shape=(similarities + moment,), initializer=_start(similarities), trainable=False, name="kernel"
        )
        self.bias = self.add_weight(shape=(), initializer="zeros", trainable=False, name="bias")
        self.built = True

    def features(self, similarities: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
        """The inputs of the linear layer: float32 [..., S] and [..., 9] -> float32 [..., S + F]."""
        return tf.concat([similarities, moment_features(counters, self.view_counters)], axis=-1)

    def call(self, similarities: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
        """Logits: float32 [B, C, S] and [B, C, 9] -> float32 [B, C]."""
        return tf.linalg.matvec(self.features(similarities, counters), self.kernel) + self.bias

    def assign(self, kernel: Any, bias: float) -> None:
        """Set weights, float32 [S + F], and a bias."""
        self.kernel.assign(kernel)
        self.bias.assign(bias)


def _start(similarities: int) -> Any:
    """Initial weights before anything was measured: more similar articles are clicked more."""

    def start(shape: tuple[int, ...], dtype: Any = None) -> tf.Tensor:
        alike = tf.cast(tf.range(shape[0]) < similarities, dtype or tf.float32)
        return alike / similarities

    return start
