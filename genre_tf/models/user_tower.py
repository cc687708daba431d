"""The user tower: one vector per reader, from the vectors of the newest clicks."""

import keras
import tensorflow as tf

from genre_tf.models.attention_pooling import AttentionPooling


class UserTower(keras.layers.Layer):
    """Multi-head self-attention over the history, then attention pooling that knows how recent a click is.

    The self-attention is added through a learned gate that starts at zero (ReZero), so that the tower starts
    as the mean of the history, the strongest untrained reader vector. A reader without history is a learned
    vector. If a log says how long clicks were read, the pooling is weighted by it in training (the
    self-attention is not). A server does not get this, and its graph uses weights of 1.

    Args:
        dimension: D, the width of an article's vector.
        heads: number of heads of the self-attention.
        max_history: H, number of newest clicks that have a recency of their own.
        dropout: dropout rate in training.

    Source: Wu et al., "Neural News Recommendation with Multi-Head Self-Attention" (NRMS), 2019;
    Bachlechner et al., "ReZero is All You Need", 2020.
    """

    def __init__(
        self, dimension: int, heads: int, max_history: int, dropout: float, name: str = "user_tower"
    ) -> None:
        super().__init__(name=name)
        self.dimension = dimension
        self.attention = keras.layers.MultiHeadAttention(
            heads, max(1, dimension // heads), dropout=dropout, name="attention"
        )
        self.pooling = AttentionPooling(dimension // 2, positions=max_history, name="pooling")
        self._build_weights()

    def _build_weights(self) -> None:
        history = (None, None, self.dimension)
        self.attention.build(history, history)
        self.pooling.build(history)
        self.gate = self.add_weight(shape=(), initializer="zeros", name="gate")
        self.no_history = self.add_weight(shape=(self.dimension,), initializer="zeros", name="no_history")
        self.built = True

    def call(
        self,
        history: tf.Tensor,
        mask: tf.Tensor,
        training: bool | None = None,
        click_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Encode readers.

        Args:
            history: float32 [B, H, D], oldest first.
            mask: bool [B, H], True for real clicks.
            training: whether dropout is active.
            click_weights: float32 [B, H], above zero; None: 1 everywhere.

        Returns:
            float32 [B, D].
        """
        mixed = self._mixed(history, mask, training)
        vector = self.pooling(mixed, mask, click_weights)  # [batch, dimension]
        return tf.where(tf.reduce_any(mask, axis=1)[:, None], vector, self.no_history[None, :])

    def click_shares(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """The weight of each click in the reader's vector.

        Args:
            history: float32 [B, H, D], oldest first.
            mask: bool [B, H], True for real clicks.

        Returns:
            float32 [B, H]: the pooling's weights, which sum to 1 over real clicks and are 0 elsewhere.
        """
        return self.pooling.weights_of(self._mixed(history, mask, False), mask)

    def _mixed(self, history: tf.Tensor, mask: tf.Tensor, training: bool | None) -> tf.Tensor:
        attended = self.attention(
            history, history, attention_mask=mask[:, None, :], training=training
        )  # [batch, clicks, dimension]
        return history + self.gate * attended
