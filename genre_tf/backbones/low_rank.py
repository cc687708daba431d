"""Trained additions to a frozen language model: low-rank updates, and rows of its embeddings."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class LowRank(keras.layers.Layer):
    """A trained low-rank update of a frozen kernel, computed separately: `x W + x A B`; B starts at zero.

    No gradient of the kernel's size is ever computed. The scale alpha / rank is 1.

    Args:
        inputs: number of rows of the kernel.
        outputs: number of its columns.
        rank: rank of the update.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, name: str) -> None:
        super().__init__(name=name)
        gaussian = keras.initializers.RandomNormal(stddev=1 / math.sqrt(inputs))
        self.down = self.add_weight(name="down", shape=(inputs, rank), initializer=gaussian)
        self.up = self.add_weight(name="up", shape=(rank, outputs), initializer="zeros")
        self.built = True

    def update(self, flat: tf.Tensor) -> tf.Tensor:
        """The addition to the kernel's product: [M, inputs] -> [M, outputs]."""
        down, up = (tf.cast(tf.convert_to_tensor(each), flat.dtype) for each in (self.down, self.up))
        return tf.matmul(tf.matmul(flat, down), up)

    def added(self) -> tf.Tensor:
        """The addition to the kernel itself, float32 [inputs, outputs]: for weights that are only read."""
        return tf.matmul(tf.convert_to_tensor(self.down), tf.convert_to_tensor(self.up))


class TokenRows(keras.layers.Layer):
    """An addition to the input and output embeddings of a few tokens; starts at zero.

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


@contextmanager
def assigned(values: Sequence[tuple[Any, tf.Tensor]]) -> Iterator[None]:
    """Give variables other values of the same size while the context lasts."""
    before = [tf.identity(tf.convert_to_tensor(variable)) for variable, _ in values]
    try:
        for variable, value in values:
            variable.assign(tf.reshape(value, variable.shape))
        yield
    finally:
        for (variable, _), value in zip(values, before, strict=True):
            variable.assign(value)
