"""Search: the articles with the greatest dot products among all, or among those of the nearest blocks.

Everything is in portable ops. Exact search looks at all articles, and is fast enough for a million. For
larger pools there is the partitioned index: a reader's dot products with the means of the blocks decide which
blocks are searched; inside them the search is exact. Partitions come from k-means. Large ones are split
repeatedly along their widest direction, so that all blocks have the same size and are gathered in one
operation without ragged tensors.

Source: Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", 2011 (its inverted file).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.errors import InputError

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

EXCLUDED = -1e30  # the score of excluded articles: below every real score, and finite
BLOCK = 32  # scores that `top_columns` compares at a time; near sqrt(articles / limit), the fastest
_PAIR_BASE = 2**31  # greater than any number of rows
_KIND = "partitioned"
_CHUNK_ROWS = 16_384  # rows compared with all centres at a time: some 100 MB of distances
_BLOCKS_A_PARTITION = 4  # the last block is half empty on average: an eighth of the memory
_SAMPLE_A_PARTITION = 40  # a larger sample hardly moves the centres (FAISS asks for 39)
_ROUNDS = 8  # of k-means
_POWER_STEPS = 6  # towards the widest direction; an approximate one is enough


def open_variable(value: npt.NDArray[Any] | tf.Tensor, name: str, open_axis: int = 0) -> tf.Variable:
    """A variable that may grow along one axis, so that a refresh can rewrite it."""
    start = tf.convert_to_tensor(value)
    shape = start.shape.as_list()
    shape[open_axis] = None
    return tf.Variable(start, trainable=False, name=name, shape=tf.TensorShape(shape))


def variable_values(module: tf.Module, prefix: str = "") -> dict[str, tf.Tensor]:
    """Values of a module's variables and its submodules', by path (such as `titles` or `nearest.blocks`)."""
    values: dict[str, tf.Tensor] = {}
    for name, held in vars(module).items():
        if isinstance(held, tf.Variable):
            values[prefix + name] = held.value()
        elif isinstance(held, tf.Module):
            values |= variable_values(held, f"{prefix}{name}.")
    return values


def top_columns(scores: tf.Tensor, limit: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The greatest scores of each row, float [B, N], and their columns, as `tf.math.top_k` returns them.

    `top_k` examines scores one after the other. For a million articles and a batch of several requests, this
    takes longer than the matrix product before it. The maximum of each block of scores costs one vectorized
    pass, and the best K scores can only be in the K blocks with the greatest maxima. If the number of columns
    is a multiple of `BLOCK`, the scores are not copied.
    """
    rows, columns = tf.unstack(tf.shape(scores))
    missing = -columns % BLOCK
    # Without missing columns the op passes on its input without a copy.
    padded = tf.pad(scores, [[0, 0], [0, missing]], constant_values=scores.dtype.min)
    blocks = tf.reshape(padded, [rows, (columns + missing) // BLOCK, BLOCK])  # [B, blocks, 32]
    greatest = tf.reduce_max(blocks, axis=2)  # [B, blocks]
    kept = tf.minimum(limit, tf.shape(greatest)[1])
    _, best_blocks = tf.math.top_k(greatest, kept, sorted=False)
    # Sorted, so that the first of equal scores win, as in `top_k`.
    best_blocks = tf.sort(best_blocks, axis=1)  # [B, kept]
    candidates = tf.reshape(tf.gather(blocks, best_blocks, batch_dims=1), [rows, kept * BLOCK])
    best, places = tf.math.top_k(candidates, limit)  # [B, K]
    return best, tf.gather(best_blocks, places // BLOCK, batch_dims=1) * BLOCK + places % BLOCK


def among(pairs: tf.Tensor, excluded: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Which pairs of (reader, row) are excluded: int64 [M, 2] and int64 [X, 2] -> bool, shaped `shape`."""
    keys, others = (side[:, 0] * _PAIR_BASE + side[:, 1] for side in (pairs, excluded))
    others = tf.concat([tf.sort(others), [_PAIR_BASE * _PAIR_BASE]], 0)  # a last key that equals no other
    found = tf.gather(others, tf.searchsorted(others, keys))
    return tf.reshape(found == keys, shape)


class Changed(NamedTuple):
    """Articles for which a request replaces the last component of the vector, the bias."""

    rows: tf.Tensor  # int64 [B, W], without repetitions in a row of the batch; 0 for padding
    bias: tf.Tensor  # float32 [B, W], their new last components
    findable: tf.Tensor  # bool [B, W], True for those that may be found; False for row 0


def reader_pairs(rows: tf.Tensor) -> tf.Tensor:
    """Pairs of (reader, row): rows int64 [B, W] -> int64 [B x W, 2]."""
    reader = tf.range(tf.shape(rows, tf.int64)[0])[:, None]
    return tf.reshape(tf.stack([reader + tf.zeros_like(rows), rows], axis=2), [-1, 2])


class ExactIndex(tf.Module):
    """Finds the articles with the greatest dot products among all articles.

    The vectors, float32 [N, D], of which row 0 is the padding article, are stored as columns, followed by
    columns of zeros up to a multiple of `BLOCK`, so that no request has to copy its scores to fill the last
    block. A search never finds these columns, nor those that are not findable, bool [N].
    """

    def __init__(self, vectors: Vectors, findable: npt.NDArray[np.bool_] | None = None) -> None:
        super().__init__(name="exact_index")
        # Transposed once here instead of in each request: a third faster on the CPU (DESIGN.md, on speed).
        articles, dimension = vectors.shape
        columns = np.zeros((dimension, articles + -articles % BLOCK), np.float32)
        columns[:, :articles] = vectors.T
        self.matrix = open_variable(columns, "matrix", open_axis=1)  # [D, columns]
        self.articles = tf.Variable(articles, trainable=False, name="articles", dtype=tf.int64)
        hidden = np.ones(columns.shape[1], bool)
        hidden[:articles] = False if findable is None else ~findable
        self.hidden = open_variable(hidden, "hidden")  # [columns]

    def update(self, bias: npt.NDArray[np.float32], findable: npt.NDArray[np.bool_]) -> None:
        """Replace the last components of the vectors, float32 [N], and what may be found, bool [N]."""
        columns = self.matrix.shape[0], len(bias)
        hidden = np.ones(self.matrix.value().shape[1], bool)
        hidden[: columns[1]] = ~findable
        self.hidden.assign(hidden)
        self.matrix[-1:, : columns[1]].assign(bias[None])

    def as_sizes(self) -> dict[str, Any]:
        """Values for the contract."""
        return {"index": "exact"}

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Vectors of rows: int64 [M] -> float32 [M, D]."""
        return tf.transpose(tf.gather(self.matrix, rows, axis=1))

    def ask(self, readers: tf.Tensor) -> "ExactQueries":
        """Queries for readers, float32 [B, D]."""
        return ExactQueries(self, readers)


class ExactQueries:
    """The queries of one request; the scores of all articles are computed once."""

    def __init__(self, index: ExactIndex, readers: tf.Tensor) -> None:
        self._index = index
        self._weight = readers[:, -1:]
        self._scores = tf.matmul(readers, index.matrix)  # [B, columns]

    def products(self, rows: tf.Tensor, bias: tf.Tensor | float = 0.0) -> tf.Tensor:
        """Dot products with the last component replaced by `bias`: rows int64 [B, M] -> float32 [B, M]."""
        known = tf.gather(self._index.matrix[-1], rows)
        return tf.gather(self._scores, rows, batch_dims=1) + self._weight * (bias - known)

    def best(
        self, excluded: tf.Tensor, limit: int, changed: Changed | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The at most `limit` articles with the greatest dot products.

        `excluded`, int64 [M, 2], are pairs of a reader and a row that this reader must not get.

        Returns:
            Rows int64 [B, L], best first, and bool [B, L], True for real results; L is the smaller of `limit`
            and N.
        """
        scores = tf.where(self._index.hidden[None, :], EXCLUDED, self._scores)  # also hides padding columns
        if changed is not None:
            new = tf.where(changed.findable, self.products(changed.rows, changed.bias), EXCLUDED)
            scores = tf.tensor_scatter_nd_update(scores, reader_pairs(changed.rows), tf.reshape(new, [-1]))
        lowest = tf.fill([tf.shape(excluded)[0]], EXCLUDED)
        # This happens in place, because nothing else reads these scores.
        scores = tf.tensor_scatter_nd_update(scores, excluded, lowest)
        best, rows = top_columns(scores, tf.minimum(limit, tf.cast(self._index.articles, tf.int32)))
        return tf.cast(rows, tf.int64), best > EXCLUDED / 2


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
    """Approximate search of articles inside the graph; arguments as for `ExactIndex`.

    Each vector is stored once, in its block: 4 x D bytes, and 16 bytes for the two numbers that locate it.
    Unused space in the last block of each partition adds about an eighth. Each reader needs `probes` x
    `block` x D x 4 bytes while a search runs: 4 MB by default.

    Readers who have read all articles in their nearest blocks get no recommendations; with the exact index
    they do. Articles that a search must not find are in separate blocks after the others, which have no means
    and are therefore never searched.
    """

    def __init__(
        self,
        vectors: Vectors,
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
        rows = np.full((len(blocks) + len(behind), size), -1, np.int64)
        for number, block in enumerate([*blocks, *behind]):
            rows[number, : len(block)] = block
        places = np.empty(len(vectors), np.int64)
        places[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        means = [vectors[block].sum(axis=0) / max(1, len(block)) for block in blocks]
        kept = vectors[np.maximum(rows, 0)]  # [all blocks, block, D]
        self.means = open_variable(np.ascontiguousarray(np.transpose(means)), "means", open_axis=1)
        self.rows = open_variable(rows[: len(blocks)], "rows")  # [blocks, block], -1 for unused places
        self.places = open_variable(places, "places")  # [N], positions in the concatenation of all blocks
        self.blocks = open_variable(kept, "blocks")

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


class PartitionedQueries:
    """The queries of one request."""

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
            best, rows = self._in_nearest_blocks(excluded, limit)
        else:
            pairs = reader_pairs(changed.rows)
            best, rows = self._in_nearest_blocks(tf.concat([excluded, pairs], 0), limit)
            allowed = changed.findable & ~among(pairs, excluded, tf.shape(changed.rows))
            more = tf.where(allowed, self.products(changed.rows, changed.bias), EXCLUDED)
            scores = tf.concat([best, more], axis=1)
            best, places = tf.math.top_k(scores, tf.minimum(limit, tf.shape(scores)[1]))
            rows = tf.gather(tf.concat([rows, changed.rows], axis=1), places, batch_dims=1)
        found = best > EXCLUDED / 2
        return tf.where(found, rows, 0), found

    def _in_nearest_blocks(self, excluded: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The greatest dot products, float32 [B, L], best first, and their rows."""
        index, readers, size = self._index, self._readers, self._index.options.block
        nearness = tf.matmul(readers, index.means)  # [B, blocks]
        probes = tf.minimum(index.options.probes, tf.shape(nearness)[1])
        _, chosen = tf.math.top_k(nearness, probes, sorted=False)
        # Sorted, so that the order of equal scores does not depend on which block is nearer.
        chosen = tf.sort(chosen, axis=1)  # [B, probes]
        shape = [tf.shape(readers)[0], probes * size]
        rows = tf.reshape(tf.gather(index.rows, chosen), shape)  # [B, examined]
        vectors = tf.reshape(tf.gather(index.blocks, chosen), [*shape, index.blocks.shape[2]])
        scores = tf.matmul(vectors, readers[:, :, None])[:, :, 0]  # [B, examined]
        scores = tf.where(rows < 0, EXCLUDED, scores)
        reader, place = excluded[:, 0], tf.gather(index.places, excluded[:, 1])  # [M]
        here = tf.equal(tf.cast(tf.gather(chosen, reader), tf.int64), (place // size)[:, None])  # [M, probes]
        hit = tf.where(here)  # [hits, 2]: index in `excluded`, number of the probe
        columns = hit[:, 1] * size + tf.gather(place, hit[:, 0]) % size
        at = tf.stack([tf.gather(reader, hit[:, 0]), columns], axis=1)
        scores = tf.tensor_scatter_nd_update(scores, at, tf.fill([tf.shape(at)[0]], EXCLUDED))
        best, columns = top_columns(scores, tf.minimum(limit, shape[1]))
        return best, tf.gather(rows, columns, batch_dims=1)


def part_into_blocks(vectors: Vectors, block: int) -> list[Rows]:
    """The rows of blocks of at most `block` rows; neighbours are in the same, every row is in one."""
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
