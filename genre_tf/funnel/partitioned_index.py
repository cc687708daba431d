"""Search in a part of the pool, for pools of more than a million articles; in portable ops.

A reader's dot products with the means of the blocks decide which blocks are searched; inside them the search
is exact. Partitions come from k-means. Large ones are split repeatedly along their widest direction, so that
all blocks have the same size and are gathered in one operation without ragged tensors.

Source: Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", 2011 (its inverted file).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.funnel.exact_search import (
    EXCLUDED,
    Changed,
    Searched,
    among,
    open_variable,
    reader_pairs,
    top_columns,
)

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_KIND = "partitioned"

_CHUNK_ROWS = 16_384  # rows compared with all centres at a time: some 100 MB of distances
_BLOCKS_A_PARTITION = 4  # the last block is half empty on average: an eighth of the memory
_SAMPLE_A_PARTITION = 40  # a larger sample hardly moves the centres (FAISS asks for 39)
_ROUNDS = 8  # of k-means
_POWER_STEPS = 6  # steps towards the widest direction; an approximate one is enough


@dataclass(frozen=True, kw_only=True)
class PartitionedOptions:
    """How a partitioned index is built and searched."""

    block: int = 128  # articles of a block; 64 kB for vectors of 128 components: read at full speed
    probes: int = 64  # blocks that a search examines: 8,192 articles; recall: `genre bench retrieve`

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise InputError(f"probes (blocks of a search) must be at least 1; got {self.probes}")


def options_of(sizes: Mapping[str, Any]) -> PartitionedOptions | None:
    """The options of the index that a contract describes; None for an exact index."""
    if sizes.get("index") != _KIND:
        return None
    return PartitionedOptions(block=int(sizes["block"]), probes=int(sizes["probes"]))


class PartitionedIndex(tf.Module):
    """Approximate search of articles inside the graph.

    Each vector is stored once, in its block: 4 x D bytes, and 16 bytes for the two numbers that locate it.
    Unused space in the last block of each partition adds about an eighth. Each reader needs `probes` x
    `block` x D x 4 bytes while a search runs: 4 MB by default.

    Readers who have read all articles in their nearest blocks get no recommendations; with the exact index
    they do.

    Articles that a search must not find are in separate blocks after the others, which have no means and are
    therefore never searched.

    Args:
        vectors: float32 [N, D]; row 0, the padding article, is never found.
        options: options of the index.
        findable: bool [N], True for articles that a search may find; None: all.

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
            raise InputError(f"an index needs at least one article after row 0; got {len(vectors)} rows")
        if not np.isfinite(vectors).all():
            raise InputError("the vectors of an index must be finite numbers: encode the articles again")
        self.options = options
        size = options.block
        searched = np.ones(len(vectors), bool) if findable is None else findable.copy()
        searched[0] = False
        found, hidden = np.flatnonzero(searched), np.flatnonzero(~searched)
        # A search needs at least one block: if no article may be found, an empty one.
        blocks = [found[rows] for rows in part_into_blocks(vectors[found], size)] or [found]
        behind = np.split(hidden, range(size, len(hidden), size))
        rows = _in_rows([*blocks, *behind], size)
        places = np.empty(len(vectors), np.int64)
        places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        means = [vectors[block].sum(axis=0) / max(1, len(block)) for block in blocks]
        kept = vectors[np.maximum(rows, 0)]  # [all blocks, block, D]
        self.means = open_variable(np.ascontiguousarray(np.transpose(means)), "means", open_axis=1)
        self.rows = open_variable(rows[: len(blocks)], "rows")  # [blocks, block], -1 for unused places
        self.places = open_variable(places, "places")  # [N], positions in the concatenation of all blocks
        self.blocks = open_variable(kept, "blocks")

    def searched(self) -> Searched:
        """The blocks that a search chooses from."""
        return Searched([rows[rows >= 0] for rows in self.rows.numpy()], self.options.probes)

    def as_sizes(self) -> dict[str, Any]:
        """Values for the contract, from which `options_of` reads them."""
        return {"index": _KIND, "probes": self.options.probes, "block": self.options.block}

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Vectors of rows: int64 [M] -> float32 [M, D]."""
        places = tf.gather(self.places, rows)
        return tf.gather(tf.reshape(self.blocks, [-1, self.blocks.shape[2]]), places)

    def ask(self, readers: tf.Tensor) -> "PartitionedQueries":
        """Queries for readers, float32 [B, D]."""
        return PartitionedQueries(self, readers)

    def best_scores(self, readers: tf.Tensor, excluded: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The greatest dot products in the nearest blocks, float32 [B, L], best first, and their rows."""
        nearness = tf.matmul(readers, self.means)  # [B, blocks]
        probes = tf.minimum(self.options.probes, tf.shape(nearness)[1])
        _, chosen = tf.math.top_k(nearness, probes, sorted=False)
        # Sorted, so that the order of equal scores does not depend on which block is nearer.
        chosen = tf.sort(chosen, axis=1)  # [B, probes]
        size = self.options.block
        shape = [tf.shape(readers)[0], probes * size]
        rows = tf.reshape(tf.gather(self.rows, chosen), shape)  # [B, examined]
        scores = tf.where(rows < 0, EXCLUDED, self._scores(readers, chosen, shape))
        scores = self._without(scores, chosen, excluded)
        best, columns = top_columns(scores, tf.minimum(limit, shape[1]))
        return best, tf.gather(rows, columns, batch_dims=1)

    def _scores(self, readers: tf.Tensor, chosen: tf.Tensor, shape: list[tf.Tensor]) -> tf.Tensor:
        kept = tf.gather(self.blocks, chosen)  # [B, probes, block, D]
        vectors = tf.reshape(kept, [*shape, self.blocks.shape[2]])
        return tf.matmul(vectors, readers[:, :, None])[:, :, 0]  # [B, examined]

    def _without(self, scores: tf.Tensor, chosen: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
        size = self.options.block
        reader, place = excluded[:, 0], tf.gather(self.places, excluded[:, 1])  # [M]
        here = tf.equal(tf.cast(tf.gather(chosen, reader), tf.int64), (place // size)[:, None])  # [M, probes]
        hit = tf.where(here)  # [hits, 2]: index in `excluded`, number of the probe
        columns = hit[:, 1] * size + tf.gather(place, hit[:, 0]) % size
        at = tf.stack([tf.gather(reader, hit[:, 0]), columns], axis=1)
        return tf.tensor_scatter_nd_update(scores, at, tf.fill([tf.shape(at)[0]], EXCLUDED))


class PartitionedQueries:
    """The queries of one request.

    Args:
        index: index of the articles.
        readers: float32 [B, D].
    """

    def __init__(self, index: PartitionedIndex, readers: tf.Tensor) -> None:
        self._index = index
        self._readers = readers

    def products(self, rows: tf.Tensor, bias: tf.Tensor | float = 0.0) -> tf.Tensor:
        """As `ExactQueries.products`."""
        vectors = self._index.vectors(tf.reshape(rows, [-1]))  # [B x M, D]
        vectors = tf.reshape(vectors, [*tf.unstack(tf.shape(rows)), vectors.shape[1]])
        return tf.linalg.matvec(vectors[:, :, :-1], self._readers[:, :-1]) + self._readers[:, -1:] * bias

    def best(
        self, excluded: tf.Tensor, limit: int, changed: Changed | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `ExactQueries.best`, among the nearest blocks and the changed articles of any block.

        L is the smaller of `limit` and the number of places examined; rows are 0 for padding.
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
    """Blocks of up to `size` rows as int64 [blocks, size], padded with -1."""
    rows = np.full((len(blocks), size), -1, np.int64)
    for number, block in enumerate(blocks):
        rows[number, : len(block)] = block
    return rows


def part_into_blocks(vectors: Vectors, block: int) -> list[Rows]:
    """Split rows into blocks so that neighbours are in the same block.

    Args:
        vectors: float32 [N, D].
        block: most rows of a block.

    Returns:
        The rows of each block; every row is in exactly one.
    """
    if not len(vectors):
        return []
    count = max(1, len(vectors) // (block * _BLOCKS_A_PARTITION))
    nearest = _nearest(vectors, k_means(vectors, count))
    order = np.argsort(nearest, kind="stable").astype(np.int64)
    ends = np.cumsum(np.bincount(nearest, minlength=count))
    return [one for rows in np.split(order, ends[:-1]) for one in _cut(rows, vectors, block)]


def k_means(vectors: Vectors, count: int) -> Vectors:
    """Centres of a sample of the vectors, by Lloyd's method: float32 [count, D]."""
    random = np.random.default_rng(0)
    size = min(len(vectors), count * _SAMPLE_A_PARTITION)
    sample = vectors[np.sort(random.choice(len(vectors), size, replace=False))]
    centres = sample[random.choice(size, count, replace=False)]
    for _ in range(_ROUNDS):
        nearest = _nearest(sample, centres)
        order = np.argsort(nearest, kind="stable")
        used, first = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(sample[order], first, axis=0)
        sizes = np.diff(np.append(first, size))
        # A centre without articles moves to a random article, so two centres then share that region.
        centres = sample[random.choice(size, count, replace=False)]
        centres[used] = sums / sizes[:, None]
    return centres


def _nearest(vectors: Vectors, centres: Vectors) -> Rows:
    """The nearest centre of each vector, int64 [N]."""
    halves = (centres**2).sum(axis=1) / 2
    nearest = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        chunk = vectors[start : start + _CHUNK_ROWS]
        nearest[start : start + len(chunk)] = np.argmax(chunk @ centres.T - halves, axis=1)
    return nearest


def _cut(rows: Rows, vectors: Vectors, block: int) -> list[Rows]:
    if len(rows) <= block:
        return [rows] if len(rows) else []
    place = _along_widest_direction(vectors[rows])
    blocks = -(-len(rows) // block)
    # The first half consists of full blocks, so that only the last block of a partition has unused space.
    order = rows[np.argsort(place, kind="stable")]
    middle = blocks // 2 * block
    return [*_cut(order[:middle], vectors, block), *_cut(order[middle:], vectors, block)]


def _along_widest_direction(vectors: Vectors) -> Vectors:
    """Coordinates along the direction of greatest variance, by power iteration: float32 [N]."""
    centred = vectors - vectors.mean(axis=0)
    direction = centred[np.argmax((centred**2).sum(axis=1))]
    for _ in range(_POWER_STEPS):
        direction = centred.T @ (centred @ direction)
        length = np.linalg.norm(direction)
        if length == 0:  # all vectors are equal
            break
        direction = direction / length
    return centred @ direction
