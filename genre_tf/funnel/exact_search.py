"""Exact search: the greatest of many scores, in portable ops.

`tf.math.top_k` examines the scores one after the other. For a million articles and a batch of several
requests, this takes longer than the matrix product before it. The maximum of each block of scores costs one
vectorized pass, and the best K scores can only be in the K blocks with the greatest maxima.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

EXCLUDED = -1e30  # the score of excluded articles: below every real score, and finite
_PAIR_BASE = 2**31  # greater than any number of rows
BLOCK = 32  # scores per block; near sqrt(articles / limit), where both rounds together examine the fewest


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


@dataclass(frozen=True)
class Searched:
    """The blocks that a search chooses from.

    Attributes:
        blocks: rows of each block.
        probes: number of blocks that a search examines: those whose means are nearest to the reader.
    """

    blocks: list[npt.NDArray[np.int64]]
    probes: int


def top_columns(scores: tf.Tensor, limit: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The greatest scores of each row and their columns, exactly as `tf.math.top_k` returns them.

    Equal scores are returned in the order of their columns. If the number of columns is a multiple of
    `BLOCK`, the scores are not copied.

    Args:
        scores: float [B, N].
        limit: K, at most N.

    Returns:
        Scores [B, K], best first, and columns int32 [B, K].
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
    """Articles for which a request replaces the last component of the vector, the bias.

    Attributes:
        rows: int64 [B, W], without repetitions in a row of the batch; 0 for padding.
        bias: float32 [B, W], their new last components.
        findable: bool [B, W], True for those that may be found; False for row 0.
    """

    rows: tf.Tensor
    bias: tf.Tensor
    findable: tf.Tensor


def reader_pairs(rows: tf.Tensor) -> tf.Tensor:
    """Pairs of (reader, row): rows int64 [B, W] -> int64 [B x W, 2]."""
    reader = tf.range(tf.shape(rows, tf.int64)[0])[:, None]
    return tf.reshape(tf.stack([reader + tf.zeros_like(rows), rows], axis=2), [-1, 2])


class ExactIndex(tf.Module):
    """Finds the articles with the greatest dot products among all articles.

    The vectors are stored as columns, followed by columns of zeros up to a multiple of `BLOCK`, so that no
    request has to copy its scores to fill the last block. A search never finds these columns.

    Args:
        vectors: float32 [N, D]; row 0 is the padding article.
        findable: bool [N], True for articles that a search may find; None: all.
    """

    def __init__(
        self, vectors: npt.NDArray[np.float32], findable: npt.NDArray[np.bool_] | None = None
    ) -> None:
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

    def searched(self) -> Searched | None:
        """None: a search examines all articles, not blocks of them."""
        return None

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
    """The queries of one request; the scores of all articles are computed once.

    Args:
        index: index of the articles.
        readers: float32 [B, D].
    """

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
        """The articles with the greatest dot products.

        Args:
            excluded: int64 [M, 2], pairs of a reader and a row that this reader must not get.
            limit: maximum number of articles to find.
            changed: articles whose last component is replaced.

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
