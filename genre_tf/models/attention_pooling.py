"""Additive attention pooling that starts as the mean."""

import keras
import tensorflow as tf


class AttentionPooling(keras.layers.Layer):
    """Weighted mean of a sequence; the weights are learned from its elements.

    The scoring vector starts at zero, so that the layer starts as the mean over the real elements. A
    pretrained encoder that was trained for mean pooling therefore loses nothing before the first step. Each
    of the newest `positions` elements, if above zero, has a learned bias.

    Source: Yang et al., "Hierarchical Attention Networks", 2016, equations 8-10 (masked).
    """

    def __init__(self, hidden: int, positions: int = 0, name: str | None = None) -> None:
        super().__init__(name=name)
        self.score_hidden = keras.layers.Dense(hidden, activation="tanh", name="score_hidden")
        self.score = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="score")
        self.positions = positions

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Create the weights for elements of width `shape[-1]`."""
        self.score_hidden.build(shape)
        self.score.build((*shape[:-1], self.score_hidden.units))
        if self.positions:
            self.recency_bias = self.add_weight(
                shape=(self.positions,), initializer="zeros", name="recency_bias"
            )
        self.built = True

    def weights_of(self, elements: tf.Tensor, mask: tf.Tensor, counted: tf.Tensor | None = None) -> tf.Tensor:
        """Attention weights, float32 [B, T]; they sum to 1 over real elements and are 0 for padding."""
        scores = self.score(self.score_hidden(elements))[..., 0]  # [batch, elements]
        if self.positions:
            scores += tf.gather(self.recency_bias, positions_from_newest(mask, self.positions))
        if counted is not None:
            scores += tf.cast(tf.math.log(counted), scores.dtype)
        return _masked_softmax(scores, mask)

    def of_unpadded(self, elements: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """As `call`, of the real elements only, float32 [N, D], sequence after sequence; bool [B, T].

        Where half of the elements would be padding, it takes half the time and memory.
        """
        place = tf.where(mask)  # [N, 2]: sequence and position
        scores = self.score(self.score_hidden(elements))[:, 0]  # [N]
        padded = tf.scatter_nd(place, scores, tf.shape(mask, tf.int64))  # [batch, elements]
        weights = tf.gather_nd(_masked_softmax(padded, mask), place)  # [N]
        return tf.math.unsorted_segment_sum(elements * weights[:, None], place[:, 0], tf.shape(mask)[0])

    def call(self, elements: tf.Tensor, mask: tf.Tensor, counted: tf.Tensor | None = None) -> tf.Tensor:
        """Pool sequences, float32 [B, T, D] with a mask bool [B, T], to float32 [B, D]; without elements to
        zeros.

        An element with count 2 (`counted`, float32 [B, T], above zero) weighs like two equal elements.
        """
        return tf.einsum("bt,btd->bd", self.weights_of(elements, mask, counted), elements)


def _masked_softmax(scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    weights = tf.nn.softmax(tf.where(mask, scores, tf.constant(-1e9, scores.dtype)), axis=-1)
    return tf.where(mask, weights, tf.zeros_like(weights))


def positions_from_newest(mask: tf.Tensor, positions: int) -> tf.Tensor:
    """How many real elements are newer than each, int32 [B, T], below `positions`; the oldest come first."""
    real = tf.cast(mask, tf.int32)
    newer = tf.cumsum(real, axis=1, reverse=True, exclusive=True)  # [batch, elements]
    return tf.minimum(newer, positions - 1)
