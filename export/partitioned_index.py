"""Search in a part of the pool, for pools beyond a million articles; in portable ops.

A reader's dot product with the mean of each block says which blocks to look into; within them the search is
exact. Blocks have one size, so that they are gathered in one operation and nothing is ragged.

Source: Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", 2011 (its inverted file).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.export.exact_search import top_columns
from genre_tf.export.partitions import PartitionSettings, part_into_blocks

STORAGES = ("float32", "bfloat16", "int8")
_EXCLUDED = -1e30  # below every real score, and finite
_INT8_LARGEST = 127.0


@dataclass(frozen=True, kw_only=True)
class PartitionedOptions:
    """How a partitioned index is built and searched.

    Attributes:
        partitions: how the pool is parted.
        probes: blocks that a search looks into.
        storage: type that vectors are kept in: `float32`, `bfloat16` or `int8` (with a scale for each).

    Raises:
        InputError: no such storage, or no probes.
    """

    partitions: PartitionSettings = PartitionSettings()  # noqa: RUF009  (frozen)
    probes: int = 64  # 8,192 articles of a million; recall@100 is in `genre bench retrieve`
    storage: str = "float32"

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise InputError(f"storage {self.storage!r} is not known: choose one of {', '.join(STORAGES)}")
        if self.probes < 1:
            raise InputError(f"a search looks into 1 block at least: received probes = {self.probes}")


class PartitionedIndex(tf.Module):
    """Approximate search of articles inside the graph.

    A reader takes `probes` x `block` x D x 4 bytes while a search runs: 4 MB by default.

    Args:
        vectors: float32 [N, D]; row 0, the padding article, is never found.
        options: sizes.

    Raises:
        InputError: there is no article, or a vector is not finite.
    """

    def __init__(self, vectors: npt.NDArray[np.float32], options: PartitionedOptions) -> None:
        super().__init__(name="partitioned_index")
        if len(vectors) < 2:
            raise InputError(f"an index needs an article beside row 0: received {len(vectors)} rows")
        if not np.isfinite(vectors).all():
            raise InputError("the vectors of an index must be finite numbers: encode the articles again")
        self.options = options
        size = options.partitions.block
        blocks = [rows + 1 for rows in part_into_blocks(vectors[1:], options.partitions)]
        rows = np.full((len(blocks), size), -1, np.int64)
        means = np.empty((len(blocks), vectors.shape[1]), np.float32)
        for number, block in enumerate(blocks):
            rows[number, : len(block)] = block
            means[number] = vectors[block].mean(axis=0)
        places = np.full(len(vectors), -1, np.int64)
        places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        kept = vectors[np.maximum(rows, 0)]  # [blocks, block, D]
        self.means = _open_variable(np.ascontiguousarray(means.T), "means", open_axis=1)  # [D, blocks]
        self.rows = _open_variable(rows, "rows")  # [blocks, block], -1 where there is room left
        self.places = _open_variable(places, "places")  # [N], in the blocks one after the other
        if options.storage == "int8":
            scales = np.maximum(np.abs(kept).max(axis=2), 1e-30) / _INT8_LARGEST  # [blocks, block]
            self.scales = _open_variable(scales, "scales")
            kept = np.rint(kept / scales[:, :, None])
        self.blocks = _open_variable(tf.cast(kept, options.storage), "blocks")

    def search(self, readers: tf.Tensor, excluded: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The articles with the greatest dot product, as far as the nearest blocks hold them.

        Args:
            readers: float32 [B, D].
            excluded: int64 [M, 2]: a reader, and a row that is not to be found for him.
            limit: most articles to find.

        Returns:
            Rows int64 [B, L], best first, and bool [B, L], which of them are results (others are 0); L is
            `limit` or the room of the blocks looked into, whichever is smaller.
        """
        nearness = tf.matmul(readers, self.means)  # [B, blocks]
        probes = tf.minimum(self.options.probes, tf.shape(nearness)[1])
        _, chosen = tf.math.top_k(nearness, probes, sorted=False)  # [B, probes]
        size = self.options.partitions.block
        shape = [tf.shape(readers)[0], probes * size]
        rows = tf.reshape(tf.gather(self.rows, chosen), shape)  # [B, looked at]
        scores = tf.where(rows < 0, _EXCLUDED, self._scores(readers, chosen, shape))
        scores = self._without(scores, chosen, excluded)
        best, columns = top_columns(scores, tf.minimum(limit, shape[1]))
        found = best > _EXCLUDED / 2
        return tf.where(found, tf.gather(rows, columns, batch_dims=1), 0), found

    def _scores(self, readers: tf.Tensor, chosen: tf.Tensor, shape: list[tf.Tensor]) -> tf.Tensor:
        kept = tf.gather(self.blocks, chosen)  # [B, probes, block, D]
        vectors = tf.reshape(tf.cast(kept, tf.float32), [*shape, self.blocks.shape[2]])
        scores = tf.matmul(vectors, readers[:, :, None])[:, :, 0]  # [B, looked at]
        if self.options.storage == "int8":
            scores *= tf.reshape(tf.gather(self.scales, chosen), shape)
        return scores

    def _without(self, scores: tf.Tensor, chosen: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
        size = self.options.partitions.block
        reader, place = excluded[:, 0], tf.gather(self.places, excluded[:, 1])  # [M]
        here = tf.equal(tf.cast(tf.gather(chosen, reader), tf.int64), (place // size)[:, None])  # [M, probes]
        hit = tf.where(here)  # [hits, 2]: which of the excluded, and in which probe
        columns = hit[:, 1] * size + tf.gather(place, hit[:, 0]) % size
        at = tf.stack([tf.gather(reader, hit[:, 0]), columns], axis=1)
        return tf.tensor_scatter_nd_update(scores, at, tf.fill([tf.shape(at)[0]], _EXCLUDED))


def _open_variable(value: npt.NDArray[np.generic] | tf.Tensor, name: str, open_axis: int = 0) -> tf.Variable:
    """A variable that may grow along one axis, so that a refresh can rewrite it."""
    shape: list[int | None] = list(value.shape)
    shape[open_axis] = None
    return tf.Variable(value, trainable=False, name=name, shape=tf.TensorShape(shape))
