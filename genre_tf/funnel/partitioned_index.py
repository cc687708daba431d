"""Search in a part of the pool, for pools beyond a million articles; in portable ops.

A reader's dot product with the mean of each block says which blocks to look into; within them the search is
exact. Blocks have one size, so that they are gathered in one operation and nothing is ragged.

Source: Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", 2011 (its inverted file).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.funnel.exact_search import EXCLUDED, Changed, among, reader_pairs, top_columns
from genre_tf.funnel.open_variables import open_variable
from genre_tf.funnel.partitions import PartitionSettings, Rows, Searched, part_into_blocks

_KIND = "partitioned"


@dataclass(frozen=True, kw_only=True)
class PartitionedOptions:
    """How a partitioned index is built and searched.

    Attributes:
        partitions: how the pool is parted.
        probes: blocks that a search looks into.

    Raises:
        InputError: no probes.
    """

    partitions: PartitionSettings = PartitionSettings()  # noqa: RUF009  (frozen)
    probes: int = 64  # 8,192 articles of a million; recall@100 is in `genre bench retrieve`

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise InputError(f"a search looks into 1 block at least: received probes = {self.probes}")


def options_of(sizes: Mapping[str, Any]) -> PartitionedOptions | None:
    """The options of the index that a contract tells of; None where it is the exact one."""
    if sizes.get("index") != _KIND:
        return None
    return PartitionedOptions(
        partitions=PartitionSettings(block=int(sizes["block"])), probes=int(sizes["probes"])
    )


class PartitionedIndex(tf.Module):
    """Approximate search of articles inside the graph.

    Each vector is held once, in its block: 4 x D bytes, and 16 for the two numbers that find it; about an
    eighth of all comes on top for the room that the last block of each partition has left. A reader takes
    `probes` x `block` x D x 4 bytes while a search runs: 4 MB by default.

    A reader who has read all that his blocks hold is recommended nothing; with the exact index he is.

    Articles that no search may find lie in blocks of their own, behind the others and without means, so that
    no search looks into them.

    Args:
        vectors: float32 [N, D]; row 0, the padding article, is never found.
        options: sizes.
        findable: bool [N], which of them a search may find; None: all.

    Raises:
        InputError: there is no article, or a vector is not finite.
    """

    def __init__(
        self,
        vectors: npt.NDArray[np.float32],
        options: PartitionedOptions,
        findable: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__(name="partitioned_index")
        if len(vectors) < 2:
            raise InputError(f"an index needs an article beside row 0: received {len(vectors)} rows")
        if not np.isfinite(vectors).all():
            raise InputError("the vectors of an index must be finite numbers: encode the articles again")
        self.options = options
        size = options.partitions.block
        searched = np.ones(len(vectors), bool) if findable is None else findable.copy()
        searched[0] = False
        found, hidden = np.flatnonzero(searched), np.flatnonzero(~searched)
        # Where nothing may be found, one empty block is looked into: no search is without a block.
        blocks = [found[rows] for rows in part_into_blocks(vectors[found], options.partitions)] or [found]
        behind = np.split(hidden, range(size, len(hidden), size))
        rows = _in_rows([*blocks, *behind], size)
        places = np.empty(len(vectors), np.int64)
        places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        means = [vectors[block].sum(axis=0) / max(1, len(block)) for block in blocks]
        kept = vectors[np.maximum(rows, 0)]  # [all blocks, block, D]
        self.means = open_variable(np.ascontiguousarray(np.transpose(means)), "means", open_axis=1)
        self.rows = open_variable(rows[: len(blocks)], "rows")  # [blocks, block], -1 where there is room left
        self.places = open_variable(places, "places")  # [N], in all blocks one after the other
        self.blocks = open_variable(kept, "blocks")

    def searched(self) -> Searched:
        """What a search chooses from."""
        return Searched([rows[rows >= 0] for rows in self.rows.numpy()], self.options.probes)

    def as_sizes(self) -> dict[str, Any]:
        """For the contract, from which `options_of` reads it."""
        return {"index": _KIND, "probes": self.options.probes, "block": self.options.partitions.block}

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Vectors of rows: int64 [M] -> float32 [M, D]."""
        places = tf.gather(self.places, rows)
        return tf.gather(tf.reshape(self.blocks, [-1, self.blocks.shape[2]]), places)

    def ask(self, readers: tf.Tensor) -> "PartitionedQueries":
        """Queries for some readers, float32 [B, D]."""
        return PartitionedQueries(self, readers)

    def best_scores(self, readers: tf.Tensor, excluded: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The greatest dot products in the nearest blocks, best first, and their rows: 2 x [B, L]."""
        nearness = tf.matmul(readers, self.means)  # [B, blocks]
        probes = tf.minimum(self.options.probes, tf.shape(nearness)[1])
        _, chosen = tf.math.top_k(nearness, probes, sorted=False)
        # In their order, so that equal scores come in one order whichever block is nearer.
        chosen = tf.sort(chosen, axis=1)  # [B, probes]
        size = self.options.partitions.block
        shape = [tf.shape(readers)[0], probes * size]
        rows = tf.reshape(tf.gather(self.rows, chosen), shape)  # [B, looked at]
        scores = tf.where(rows < 0, EXCLUDED, self._scores(readers, chosen, shape))
        scores = self._without(scores, chosen, excluded)
        best, columns = top_columns(scores, tf.minimum(limit, shape[1]))
        return best, tf.gather(rows, columns, batch_dims=1)

    def _scores(self, readers: tf.Tensor, chosen: tf.Tensor, shape: list[tf.Tensor]) -> tf.Tensor:
        kept = tf.gather(self.blocks, chosen)  # [B, probes, block, D]
        vectors = tf.reshape(kept, [*shape, self.blocks.shape[2]])
        return tf.matmul(vectors, readers[:, :, None])[:, :, 0]  # [B, looked at]

    def _without(self, scores: tf.Tensor, chosen: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
        size = self.options.partitions.block
        reader, place = excluded[:, 0], tf.gather(self.places, excluded[:, 1])  # [M]
        here = tf.equal(tf.cast(tf.gather(chosen, reader), tf.int64), (place // size)[:, None])  # [M, probes]
        hit = tf.where(here)  # [hits, 2]: which of the excluded, and in which probe
        columns = hit[:, 1] * size + tf.gather(place, hit[:, 0]) % size
        at = tf.stack([tf.gather(reader, hit[:, 0]), columns], axis=1)
        return tf.tensor_scatter_nd_update(scores, at, tf.fill([tf.shape(at)[0]], EXCLUDED))


class PartitionedQueries:
    """What one request asks of an index.

    Args:
        index: of the articles.
        readers: float32 [B, D].
    """

    def __init__(self, index: PartitionedIndex, readers: tf.Tensor) -> None:
        self._index = index
        self._readers = readers

    def products(self, rows: tf.Tensor, bias: tf.Tensor | float = 0.0) -> tf.Tensor:
        """Dot products of some articles, with another last number: int64 [B, M] -> float32 [B, M]."""
        vectors = self._index.vectors(tf.reshape(rows, [-1]))  # [B x M, D]
        vectors = tf.reshape(vectors, [*tf.unstack(tf.shape(rows)), vectors.shape[1]])
        return tf.linalg.matvec(vectors[:, :, :-1], self._readers[:, :-1]) + self._readers[:, -1:] * bias

    def best(
        self, excluded: tf.Tensor, limit: int, changed: Changed | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The articles with the greatest dot products, as far as the nearest blocks hold them.

        Args:
            excluded: int64 [M, 2]: a reader, and a row that is not to be found for this reader.
            limit: most articles to find.
            changed: articles with other last numbers, which are looked at wherever they are.

        Returns:
            Rows int64 [B, L], best first, and bool [B, L], which of them are results (others are 0); L is
            `limit` or the room of what is looked at, whichever is smaller.
        """
        if changed is None:
            best, rows = self._index.best_scores(self._readers, excluded, limit)
        else:
            pairs = reader_pairs(changed.rows)
            best, rows = self._index.best_scores(self._readers, tf.concat([excluded, pairs], 0), limit)
            allowed = changed.findable & ~among(pairs, excluded, tf.shape(changed.rows))
            more = tf.where(allowed, self.products(changed.rows, changed.bias), EXCLUDED)
            scores = tf.concat([best, more], axis=1)
            best, places = tf.math.top_k(scores, tf.minimum(limit, tf.shape(scores)[1]))
            rows = tf.gather(tf.concat([rows, changed.rows], axis=1), places, batch_dims=1)
        found = best > EXCLUDED / 2
        return tf.where(found, rows, 0), found


def _in_rows(blocks: list[Rows], size: int) -> Rows:
    """Blocks of up to `size` rows as int64 [blocks, size], filled up with -1."""
    rows = np.full((len(blocks), size), -1, np.int64)
    for number, block in enumerate(blocks):
        rows[number, : len(block)] = block
    return rows
