"""The reader as keys and values in front of the text, in every layer of the language model."""

from typing import Any

import keras
from keras import ops

from genre_tf.backbones.causal_prefix import Prefix

UNSEEN = -4.0
"""Bias of a new prefix before a pretrained model: some words then see about one part in fifty of it."""
_KEY_SPREAD = 0.05  # keys are then about as large as those of a new GPT-2


class ReaderPrefix(keras.layers.Layer):
    """Makes keys and values of a reader's vector.

    A narrow layer between vector and keys keeps the parameters few beside those of a large language model.

    Args:
        user_dimension: of the two-tower's user vector.
        prefix_tokens: columns of the prefix.
        layers: of the language model.
        key_heads: of each.
        depth: of each head.
        bias: added to the scores of the prefix; trained from there.
        width: of the narrow layer.

    Source: Li and Liang, "Prefix-Tuning", 2021, equation 3 and section 4.3 (a network makes the prefix);
    there the prefix is that of a task, here it is a function of the reader.
    """

    def __init__(
        self,
        *,
        user_dimension: int,
        prefix_tokens: int,
        layers: int,
        key_heads: int,
        depth: int,
        bias: float = 0.0,
        width: int = 64,
    ) -> None:
        super().__init__(name="reader_prefix")
        self.user_dimension = user_dimension
        self.prefix_tokens = prefix_tokens
        self.shape_of_row = (layers, 2, key_heads, prefix_tokens, depth)
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.narrow = keras.layers.Dense(width, activation="tanh", name="narrow")
        small = keras.initializers.RandomNormal(stddev=_KEY_SPREAD)
        wide = layers * 2 * key_heads * prefix_tokens * depth
        self.wide = keras.layers.Dense(wide, kernel_initializer=small, name="wide")
        self.no_reader = self.add_weight(
            shape=[user_dimension], initializer=keras.initializers.RandomNormal(stddev=1.0), name="no_reader"
        )
        start = keras.initializers.Constant(bias)
        self.bias = self.add_weight(shape=[], initializer=start, name="bias")
        self.norm.build([None, user_dimension])
        self.narrow.build([None, user_dimension])
        self.wide.build([None, width])
        self.built = True

    def call(self, user_vector: Any, has_reader: Any) -> Prefix:
        """Make the prefix.

        Args:
            user_vector: float32 [batch, user_dimension]; looked at only where there is a reader.
            has_reader: bool [batch].

        Returns:
            Keys and values of every layer, [batch, key_heads, prefix_tokens, depth] each.
        """
        reader = ops.where(has_reader[:, None], self.norm(user_vector), self.no_reader[None])
        made = ops.reshape(self.wide(self.narrow(reader)), [-1, *self.shape_of_row])
        layers = range(self.shape_of_row[0])
        keys, values = ([made[:, layer, part] for layer in layers] for part in (0, 1))
        return Prefix(keys, values, ops.convert_to_tensor(self.bias))
