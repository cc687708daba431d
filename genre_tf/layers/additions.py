"""Small trained additions to frozen transformer layers; every one starts at zero, the pretrained function.

Each is called after a product of a layer, with what went in and what came out, and returns what goes on.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

_ADAPTER_SPREAD = 1e-2  # as in Houlsby et al.
_PREFIX_SPREAD = 0.5  # similar to keys and values of real words


class LowRank(keras.layers.Layer):
    """A trained low-rank update of a frozen kernel, computed separately: `x W + x A B`; B starts at zero.

    A and B are those of the paper, for the whole matrix. `enable_lora` of Keras' EinsumDense gives every head
    its own A and one B to all of them, and adds the product to the kernel, so that a gradient of the kernel's
    size is computed on the way. Everything else is frozen; the scale alpha / rank is 1.

    Args:
        inputs: number of rows of the kernel.
        outputs: number of its columns.
        rank: rank of the update.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, name: str) -> None:
        super().__init__(name=name)
        gaussian = keras.initializers.RandomNormal(stddev=1 / math.sqrt(inputs))
        self.down = self.add_weight(name=f"{name}_down", shape=(inputs, rank), initializer=gaussian)
        self.up = self.add_weight(name=f"{name}_up", shape=(rank, outputs), initializer="zeros")
        self.built = True

    def call(self, flat: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        """Input [M, inputs] and product [M, outputs] of the kernel -> the product with the update."""
        return found + self.update(flat)

    def update(self, flat: tf.Tensor) -> tf.Tensor:
        """The addition to the kernel's product: [M, inputs] -> [M, outputs]."""
        down, up = (tf.cast(tf.convert_to_tensor(each), flat.dtype) for each in (self.down, self.up))
        return tf.matmul(tf.matmul(flat, down), up)

    def added(self) -> tf.Tensor:
        """The addition to the kernel itself, float32 [inputs, outputs]: for weights that are only read."""
        return tf.matmul(tf.convert_to_tensor(self.down), tf.convert_to_tensor(self.up))


class Adapter(keras.layers.Layer):
    """A bottleneck with a residual connection, `x + up(gelu(down(x)))`; `up` starts at zero: the identity.

    Args:
        hidden: width of the states.
        width: width of the bottleneck.

    Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, figure 2.
    """

    def __init__(self, hidden: int, width: int, name: str) -> None:
        super().__init__(name=name)
        near_zero = keras.initializers.TruncatedNormal(stddev=_ADAPTER_SPREAD)
        self.down = keras.layers.Dense(width, activation="gelu", kernel_initializer=near_zero, name="down")
        self.up = keras.layers.Dense(hidden, kernel_initializer="zeros", name="up")
        self.down.build((None, hidden))
        self.up.build((None, width))
        self.built = True

    def call(self, flat: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        """Input and output [M, hidden] of a product -> the output through the bottleneck."""
        return found + self.up(self.down(found))


class GatedPrefix(keras.layers.Layer):
    """Trained keys and values that every token can attend to, in addition to those of the text.

    In the paper they share the softmax of the text, so that even untrained ones take attention away from it.
    Here, as in LLaMA-Adapter, they have their own softmax, and each head adds its result through a gate that
    starts at zero. The vectors are trained directly, without the paper's network over them.

    Args:
        vectors: number of keys and of values.
        heads: number of attention heads.
        depth: width of a head.
        dropout: dropout rate of the attention weights.

    Source: Li and Liang, "Prefix-Tuning", 2021; the gate: Zhang et al., "LLaMA-Adapter", 2023, equation 6.
    """

    def __init__(self, vectors: int, heads: int, depth: int, dropout: float, name: str) -> None:
        super().__init__(name=name)
        for part in ("prefix_keys", "prefix_values"):
            start = keras.initializers.RandomNormal(stddev=_PREFIX_SPREAD)
            setattr(self, part, self.add_weight(name=part, shape=(vectors, heads, depth), initializer=start))
        self.gate = self.add_weight(name="prefix_gate", shape=(heads, 1), initializer="zeros")
        self.dropout = keras.layers.Dropout(dropout)
        self.built = True

    def call(self, query: tf.Tensor, mixed: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Scaled queries and attention output, [M, heads * depth] each -> the output with the prefix's."""
        heads, depth = self.gate.shape[0], self.prefix_keys.shape[2]
        scores = tf.einsum("mnh,snh->mns", tf.reshape(query, [-1, heads, depth]), self.prefix_keys)
        weights = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32)), query.dtype)
        answer = tf.einsum("mns,snh->mnh", self.dropout(weights, training=training), self.prefix_values)
        return mixed + tf.reshape(tf.tanh(self.gate) * answer, tf.shape(mixed))


class TokenRows(keras.layers.Layer):
    """An addition to the input and output embeddings of a few tokens.

    Control tokens are new to a pretrained model: its other tokens may stay frozen, but these must be trained.

    Args:
        ids: ids of the tokens.
        vocabulary: total number of tokens.
        hidden: embedding width.
    """

    def __init__(self, ids: Sequence[int], vocabulary: int, hidden: int) -> None:
        super().__init__(name="token_rows")
        self.ids = np.asarray(ids, np.int32)
        self._place = np.zeros(vocabulary, np.int32)  # 0: a token without an addition
        self._place[self.ids] = np.arange(1, len(ids) + 1)
        self._column = np.zeros((len(ids), vocabulary), np.float32)
        self._column[np.arange(len(ids)), self.ids] = 1.0
        self.rows = self.add_weight(name="rows", shape=(len(ids), hidden), initializer="zeros")
        self.built = True

    def embed(self, token_ids: tf.Tensor) -> tf.Tensor:
        """The addition to embeddings: int32 [...] -> float32 [..., hidden]."""
        rows = tf.pad(tf.convert_to_tensor(self.rows), [[1, 0], [0, 0]])
        return tf.gather(rows, tf.gather(self._place, token_ids))

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """The addition to logits: [n, hidden] -> [n, vocabulary]."""
        rows = tf.cast(tf.convert_to_tensor(self.rows), states.dtype)
        return tf.matmul(tf.matmul(states, rows, transpose_b=True), tf.cast(self._column, states.dtype))

    def added_to(self, table: tf.Tensor) -> tf.Tensor:
        """The embeddings with these rows added: float32 [vocabulary, hidden]."""
        return tf.tensor_scatter_nd_add(table, self.ids[:, None], tf.convert_to_tensor(self.rows))
