"""Products with a large kernel, for many rows at once and for the few rows of a decode step."""

from typing import Any

import tensorflow as tf

# From seven rows on, the product with the whole matrix is faster (measured without oneDNN).
FEW_ROWS = 6
# A block stays in a core's second-level cache while all rows pass through it.
_BLOCK_BYTES = 192 * 1024
# A smaller kernel stays in the cache as it is.
_LARGE_BYTES = 1024 * 1024


class Kernel(tf.Module):
    """A matrix for products with states; a large one is in memory twice.

    A step for a few texts reads every weight for a handful of products, so memory bandwidth limits it. The
    product with a whole matrix walks along rows that are far apart in memory, and from two rows on copies the
    matrix first. So a few rows are multiplied with blocks of columns, each contiguous: a batch of single-row
    products that reads each block from memory once. Both ways are in the graph, and the one that gets no rows
    costs nothing; no branch is needed.

    Args:
        value: float32 [inputs, outputs].
        name: name of the variable.
        large_bytes: minimum size of a kernel that has blocks.
    """

    def __init__(self, value: Any, name: str, large_bytes: int = _LARGE_BYTES) -> None:
        super().__init__(name)
        self.inputs, self.outputs = value.shape
        self.matrix = tf.Variable(value, trainable=False, name=name)
        self.blocks = None
        if 4 * self.inputs * self.outputs >= large_bytes:
            self.blocks = tf.Variable(self._in_blocks(value), trainable=False, name=f"{name}_blocks")

    def assign(self, value: Any) -> None:
        """Assign other values of the same shape."""
        self.matrix.assign(value)
        if self.blocks is not None:
            self.blocks.assign(self._in_blocks(value))

    def __call__(self, states: Any, few: Any) -> Any:
        """float32 [rows, inputs] -> float32 [rows, outputs]; `few` is the result of `few_rows(states)`."""
        if self.blocks is None:
            return tf.matmul(states, self.matrix)
        return tf.concat([self._by_blocks(states[:few]), tf.matmul(states[few:], self.matrix)], axis=0)

    def _by_blocks(self, states: Any) -> Any:
        alone = tf.reshape(states, [1, -1, 1, self.inputs])
        found = tf.transpose(tf.matmul(alone, self.blocks), [1, 2, 0, 3])  # [rows, 1, blocks, width]
        return tf.reshape(found, [-1, found.shape[2] * found.shape[3]])[:, : self.outputs]

    def _in_blocks(self, value: Any) -> Any:
        """float32 [blocks, 1, inputs, width]; the last block is padded with zeros."""
        width = min(max(16, _BLOCK_BYTES // 4 // self.inputs // 16 * 16), self.outputs)
        blocks = -(-self.outputs // width)
        filled = tf.pad(tf.convert_to_tensor(value), [[0, 0], [0, blocks * width - self.outputs]])
        return tf.transpose(tf.reshape(filled, [self.inputs, blocks, width]), [1, 0, 2])[:, None]


def few_rows(states: Any) -> Any:
    """How many of the rows of [rows, ...] are multiplied in blocks: all or none."""
    rows = tf.shape(states)[0]
    return tf.where(rows <= FEW_ROWS, rows, 0)
