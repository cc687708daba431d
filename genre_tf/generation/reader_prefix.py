"""The reader as keys and values before the text, in every layer of the language model."""

from typing import Any

import keras
from keras import ops

from genre_tf.layers.attention import Prefix

UNSEEN = -4.0
"""Initial bias of a prefix for a pretrained model: about a fiftieth of a word's attention goes to it."""
_NOBODY = 16  # width of the learned vector where readers have none
_KEY_SPREAD = 0.05  # keys then have about the size of those of a new GPT-2


class ReaderPrefix(keras.layers.Layer):
    """Makes keys and values from a reader's vector.

    A narrow layer between vector and keys limits the number of parameters, compared with a large language
    model.

    Args:
        user_dimension: dimension of the two-tower model's user vector; 0: all share a learned vector.
        prefix_tokens: number of columns of the prefix.
        layers: number of layers of the language model.
        key_heads: key heads of each layer.
        depth: width of each head.
        bias: initial value of the trained bias that is added to the scores of the prefix.
        width: width of the narrow layer.

    Source: Li and Liang, "Prefix-Tuning", 2021, equation 3 and section 4.3 (a network makes the prefix);
    there the prefix belongs to a task, here it is a function of the reader.
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
        self.norm = keras.layers.LayerNormalization(name="norm") if user_dimension else None
        self.narrow = keras.layers.Dense(width, activation="tanh", name="narrow")
        small = keras.initializers.RandomNormal(stddev=_KEY_SPREAD)
        wide = layers * 2 * key_heads * prefix_tokens * depth
        self.wide = keras.layers.Dense(wide, kernel_initializer=small, name="wide")
        self.no_reader = self.add_weight(
            shape=[user_dimension or _NOBODY],
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="no_reader",
        )
        start = keras.initializers.Constant(bias)
        self.bias = self.add_weight(shape=[], initializer=start, name="bias")
        if self.norm is not None:
            self.norm.build([None, user_dimension])
        self.narrow.build([None, user_dimension or _NOBODY])
        self.wide.build([None, width])
        self.built = True

    def call(self, user_vector: Any, has_reader: Any) -> Prefix:
        """Make the prefix.

        Args:
            user_vector: float32 [batch, user_dimension]; ignored if there is no reader.
            has_reader: bool [batch].

        Returns:
            Keys and values of every layer, [batch, key_heads, prefix_tokens, depth] each.
        """
        reader = self.no_reader[None]
        if self.norm is not None:
            reader = ops.where(has_reader[:, None], self.norm(user_vector), reader)
        else:
            reader = ops.repeat(reader, ops.shape(has_reader)[0], axis=0)
        made = ops.reshape(self.wide(self.narrow(reader)), [-1, *self.shape_of_row])
        layers = range(self.shape_of_row[0])
        keys, values = ([made[:, layer, part] for layer in layers] for part in (0, 1))
        return Prefix(keys, values, ops.convert_to_tensor(self.bias))
