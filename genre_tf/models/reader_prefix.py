"""The reader as a few vectors in front of the prompt."""

from typing import Any

import keras
from keras import ops


class ReaderPrefix(keras.layers.Layer):
    """Makes prefix vectors of a reader's vector, which stand in front of the token embeddings.

    Args:
        user_dimension: of the two-tower's user vector.
        prefix_tokens: how many vectors.
        hidden: of the language model.

    Source: after Li and Liang, "Prefix-Tuning", 2021, which gives every layer a prefix of its own.
    """

    def __init__(self, *, user_dimension: int, prefix_tokens: int, hidden: int) -> None:
        super().__init__(name="reader_prefix")
        self.user_dimension = user_dimension
        self.prefix_tokens = prefix_tokens
        self.hidden = hidden
        self.norm = keras.layers.LayerNormalization(name="norm")
        small = keras.initializers.RandomNormal(stddev=0.02)  # as GPT-2's own embeddings
        self.dense = keras.layers.Dense(prefix_tokens * hidden, kernel_initializer=small, name="dense")
        self.no_reader = self.add_weight(
            shape=[user_dimension], initializer=keras.initializers.RandomNormal(stddev=1.0), name="no_reader"
        )
        self.norm.build([None, user_dimension])
        self.dense.build([None, user_dimension])
        self.built = True

    def call(self, user_vector: Any, has_reader: Any) -> Any:
        """Make the vectors, without positions.

        Args:
            user_vector: float32 [batch, user_dimension]; looked at only where there is a reader.
            has_reader: bool [batch].

        Returns:
            float32 [batch, prefix_tokens, hidden].
        """
        reader = ops.where(has_reader[:, None], self.norm(user_vector), self.no_reader[None])
        return ops.reshape(self.dense(reader), [-1, self.prefix_tokens, self.hidden])
