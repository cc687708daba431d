"""Matrix products for a few rows that are fast with and without oneDNN, from one graph."""

from typing import Any, NamedTuple

import tensorflow as tf

# Rows multiplied one after another with blocks, by how TensorFlow multiplies (see `Routes`): from one more on
# another way is faster. Measured on two cores for GPT-2 124M and SmolLM2 135M.
FEW_ROWS = 8
FEW_ROWS_ONEDNN = 2
# Most rows multiplied together with blocks; from one more on the product with the whole matrix is faster.
SOME_ROWS = 32
# Columns of a block: it stays in a core's second-level cache while all rows pass through it, and is four or
# eight vectors wide, so that a processor sums that many outputs at a time.
_BLOCK_COLUMNS = 64
# A smaller kernel stays in the cache as it is.
_LARGE_BYTES = 1024 * 1024


class Routes(NamedTuple):
    """How the rows of a product reach a large kernel: up to `alone`, up to `together`, the rest."""

    alone: Any  # int32 []
    together: Any  # int32 []


class Probe(tf.Module):
    """Finds out in the graph whether oneDNN computes TensorFlow's products on this processor.

    A graph is exported once and served on any processor, and on some of them TensorFlow replaces products by
    oneDNN's (`TF_ENABLE_ONEDNN_OPTS`, on by default with AVX-512 VNNI), which are fast for other shapes than
    its own. It replaces `BatchMatMulV2` but not `BatchMatMulV3`, the same product. The two round differently
    if, and only if, different code computes them. Texts do not depend on the answer, except for rounding.
    """

    def __init__(self) -> None:
        super().__init__("probe")
        # Variables, because the product of constants would be computed before oneDNN is chosen. Rows are in
        # products of their own, as TensorFlow computes one product of many rows by code from oneDNN anyway.
        row, columns = (tf.random.stateless_normal([8, *size], seed=[0, 0]) for size in ([1, 64], [64, 16]))
        self.row = tf.Variable(row, trainable=False, name="row")
        self.columns = tf.Variable(columns, trainable=False, name="columns")

    def __call__(self) -> Any:
        """bool []: whether oneDNN computes `BatchMatMulV2`."""
        row, columns = tf.convert_to_tensor(self.row), tf.convert_to_tensor(self.columns)
        either = _one_by_one(row, columns), tf.raw_ops.BatchMatMulV2(x=row, y=columns)
        return tf.reduce_any(tf.not_equal(*either))

    def routes(self, rows: Any) -> Routes:
        """The fastest way for so many rows, int32 []."""
        onednn = self()
        few = tf.where(onednn, FEW_ROWS_ONEDNN, FEW_ROWS)
        some = tf.where(onednn, SOME_ROWS, 0)
        alone = tf.where(rows <= few, rows, 0)
        return Routes(alone, tf.where(rows <= some, rows, alone))


class Kernel(tf.Module):
    """A matrix float32 [inputs, outputs] for products with states; a large one is in memory twice.

    Or the matrices of all layers, float32 [layers, inputs, outputs], one of which is used at a time.
    TensorFlow takes a part of a tensor's first axis without copying it.

    A step for a few texts reads every weight for a handful of products, so memory bandwidth limits it. The
    product with a whole matrix walks along rows that are far apart in memory, and from two rows on copies the
    matrix first. So a few rows are multiplied with blocks of columns, each contiguous, that are read from
    memory once: one row after another by TensorFlow's own product of a row, or all rows together by oneDNN's
    product, whichever is faster there (`Probe`). All ways are in the graph, and one that gets no rows costs
    nothing; no branch is needed.

    Without `whole` there are only blocks. That is for a kernel that seldom gets many rows. Without `blocked`
    there is only the matrix, for XLA, which does not know `BatchMatMulV3`.
    """

    def __init__(
        self,
        value: Any,
        name: str,
        large_bytes: int = _LARGE_BYTES,
        whole: bool = True,
        blocked: bool = True,
    ) -> None:
        super().__init__(name)
        self.inputs, self.outputs = value.shape[-2:]
        large = blocked and 4 * self.inputs * self.outputs >= large_bytes
        self.matrix = self.blocks = None
        if whole or not large:
            self.matrix = tf.Variable(value, trainable=False, name=name)
        if large:
            self.blocks = tf.Variable(self._in_blocks(value), trainable=False, name=f"{name}_blocks")

    def assign(self, value: Any) -> None:
        """Assign other values of the same shape."""
        if self.matrix is not None:
            self.matrix.assign(value)
        if self.blocks is not None:
            self.blocks.assign(self._in_blocks(value))

    def __call__(self, states: Any, routes: Routes | None, layer: Any | None = None) -> Any:
        """float32 [rows, inputs] -> float32 [rows, outputs]; without routes by the whole matrix.

        `layer`, int32 [] or a number, chooses one of several matrices.
        """
        if self.blocks is None or (routes is None and self.matrix is not None):
            return tf.matmul(states, of_layer(self.matrix, layer))
        alone, together = (0, None) if routes is None else routes
        if self.matrix is None:
            together = tf.shape(states)[0]
        blocks = of_layer(self.blocks, layer)  # [blocks, inputs, columns]
        single = tf.reshape(states[:alone], [1, -1, 1, self.inputs])
        columns = blocks.shape[2]
        found = tf.concat(
            [
                tf.reshape(_one_by_one(single, tf.expand_dims(blocks, 1)), [blocks.shape[0], alone, columns]),
                tf.raw_ops.BatchMatMulV2(x=states[None, alone:together], y=blocks),
            ],
            axis=1,
        )  # [blocks, rows, columns]
        found = tf.reshape(tf.transpose(found, [1, 0, 2]), [-1, blocks.shape[0] * columns])
        found = found[:, : self.outputs]
        if self.matrix is None:
            return found
        return tf.concat([found, tf.matmul(states[together:], of_layer(self.matrix, layer))], axis=0)

    def columns(self, numbers: Any) -> Any:
        """Columns of the matrix: int32 [...] -> float32 [..., inputs]."""
        if self.blocks is None:
            return tf.gather(tf.transpose(self.matrix), numbers)
        width = self.blocks.shape[2]
        first = numbers // width * (self.inputs * width) + numbers % width
        places = first[..., None] + tf.range(self.inputs) * width
        return tf.gather(tf.reshape(self.blocks, [-1]), places)

    def _in_blocks(self, value: Any) -> Any:
        """float32 [..., blocks, inputs, columns]; the last block is padded with zeros."""
        width = min(_BLOCK_COLUMNS, self.outputs)
        blocks = -(-self.outputs // width)
        layers = value.shape[:-2]
        missing = [[0, 0]] * (len(layers) + 1) + [[0, blocks * width - self.outputs]]
        filled = tf.pad(tf.convert_to_tensor(value), missing)
        parts = tf.reshape(filled, [*layers, self.inputs, blocks, width])
        return tf.transpose(parts, [*range(len(layers)), *(len(layers) + axis for axis in (1, 0, 2))])


def of_layer(variable: Any, layer: Any | None) -> Any:
    """The values of one layer, or without a number all values."""
    values = tf.convert_to_tensor(variable)
    return values if layer is None else values[layer]


def _one_by_one(rows: Any, kernels: Any) -> Any:
    """The product that oneDNN never computes."""
    return tf.raw_ops.BatchMatMulV3(x=rows, y=kernels, Tout=tf.float32)
