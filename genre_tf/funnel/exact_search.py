"""Exact search: the greatest of many scores, in portable ops.

`tf.math.top_k` looks at one score after the other. Over a million articles that takes longer than the matrix
product before it as soon as some requests share a batch. The greatest of each block of scores costs one
vectorized pass, and the best K scores can only lie in the K blocks whose greatest are best.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.funnel.open_variables import open_variable
from genre_tf.funnel.partitions import Searched

EXCLUDED = -1e30  # the score of what is not to be found: below every real one, and finite
_PAIR_BASE = 2**31  # more than there are rows
BLOCK = 32  # scores a block: near the root of (articles / limit), where both rounds look at least


def top_columns(scores: tf.Tensor, limit: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The greatest scores of each row and their columns, exactly as `tf.math.top_k` gives them.

    Equal scores come in the order of their columns. A number of columns that is a multiple of `BLOCK` saves
    a copy of the scores.

    Args:
        scores: float [B, N].
        limit: K, at most N.

    Returns:
        Scores [B, K], best first, and columns int32 [B, K].
    """
    rows, columns = tf.unstack(tf.shape(scores))
    missing = -columns % BLOCK
    # Without missing columns the op hands on its input.
    padded = tf.pad(scores, [[0, 0], [0, missing]], constant_values=scores.dtype.min)
    blocks = tf.reshape(padded, [rows, (columns + missing) // BLOCK, BLOCK])  # [B, blocks, 32]
    greatest = tf.reduce_max(blocks, axis=2)  # [B, blocks]
    kept = tf.minimum(limit, tf.shape(greatest)[1])
    _, best_blocks = tf.math.top_k(greatest, kept, sorted=False)
    # In their order, so that of equal scores the first columns win, as in `top_k`.
    best_blocks = tf.sort(best_blocks, axis=1)  # [B, kept]
    candidates = tf.reshape(tf.gather(blocks, best_blocks, batch_dims=1), [rows, kept * BLOCK])
    best, places = tf.math.top_k(candidates, limit)  # [B, K]
    return best, tf.gather(best_blocks, places // BLOCK, batch_dims=1) * BLOCK + places % BLOCK


def among(pairs: tf.Tensor, excluded: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Which pairs of a reader and a row are excluded: two int64 [..., 2] -> bool of a shape."""
    keys, others = (side[:, 0] * _PAIR_BASE + side[:, 1] for side in (pairs, excluded))
    others = tf.concat([tf.sort(others), [_PAIR_BASE * _PAIR_BASE]], 0)  # a last one that nothing equals
    found = tf.gather(others, tf.searchsorted(others, keys))
    return tf.reshape(found == keys, shape)


class Changed(NamedTuple):
    """Articles of which a request brings other last numbers than the index has.

    Attributes:
        rows: int64 [B, W], each once in its row of the batch; 0 where there is none.
        bias: float32 [B, W], their last numbers.
        findable: bool [B, W], which of them may be found; never row 0.
    """

    rows: tf.Tensor
    bias: tf.Tensor
    findable: tf.Tensor


def reader_pairs(rows: tf.Tensor) -> tf.Tensor:
    """A reader and a row each: int64 [B, W] -> int64 [B x W, 2]."""
    reader = tf.range(tf.shape(rows, tf.int64)[0])[:, None]
    return tf.reshape(tf.stack([reader + tf.zeros_like(rows), rows], axis=2), [-1, 2])


class ExactIndex(tf.Module):
    """Articles with the greatest dot products, out of all of them.

    Vectors are held as columns, and behind them zeros up to a multiple of `BLOCK`, so that no request copies
    its scores only to fill up their last block. No search finds those.

    Args:
        vectors: float32 [N, D]; row 0 is the padding article.
        findable: bool [N], which of them a search may find; None: all.
    """

    def __init__(
        self, vectors: npt.NDArray[np.float32], findable: npt.NDArray[np.bool_] | None = None
    ) -> None:
        super().__init__(name="exact_index")
        # Transposed once here and not at each request: a third faster on the CPU (DESIGN.md, on speed).
        articles, dimension = vectors.shape
        columns = np.zeros((dimension, articles + -articles % BLOCK), np.float32)
        columns[:, :articles] = vectors.T
        self.matrix = open_variable(columns, "matrix", open_axis=1)  # [D, columns]
        self.articles = tf.Variable(articles, trainable=False, name="articles", dtype=tf.int64)
        hidden = np.ones(columns.shape[1], bool)
        hidden[:articles] = False if findable is None else ~findable
        self.hidden = open_variable(hidden, "hidden")  # [columns]

    def update(self, bias: npt.NDArray[np.float32], findable: npt.NDArray[np.bool_]) -> None:
        """Take other last numbers of the vectors, float32 [N], and other articles to find, bool [N]."""
        columns = self.matrix.shape[0], len(bias)
        hidden = np.ones(self.matrix.value().shape[1], bool)
        hidden[: columns[1]] = ~findable
        self.hidden.assign(hidden)
        self.matrix[-1:, : columns[1]].assign(bias[None])

    def searched(self) -> Searched | None:
        """What a search chooses from: no part of the articles, but all."""
        return None

    def as_sizes(self) -> dict[str, Any]:
        """For the contract."""
        return {"index": "exact"}

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Vectors of rows: int64 [M] -> float32 [M, D]."""
        return tf.transpose(tf.gather(self.matrix, rows, axis=1))

    def ask(self, readers: tf.Tensor) -> "ExactQueries":
        """Queries for some readers, float32 [B, D]."""
        return ExactQueries(self, readers)


class ExactQueries:
    """What one request asks of an index: the scores of all articles are computed once.

    Args:
        index: of the articles.
        readers: float32 [B, D].
    """

    def __init__(self, index: ExactIndex, readers: tf.Tensor) -> None:
        self._index = index
        self._weight = readers[:, -1:]
        self._scores = tf.matmul(readers, index.matrix)  # [B, columns]

    def products(self, rows: tf.Tensor, bias: tf.Tensor | float = 0.0) -> tf.Tensor:
        """Dot products of some articles, with another last number: int64 [B, M] -> float32 [B, M]."""
        known = tf.gather(self._index.matrix[-1], rows)
        return tf.gather(self._scores, rows, batch_dims=1) + self._weight * (bias - known)

    def best(
        self, excluded: tf.Tensor, limit: int, changed: Changed | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The articles with the greatest dot products.

        Args:
            excluded: int64 [M, 2]: a reader, and a row that is not to be found for this reader.
            limit: most articles to find.
            changed: articles with other last numbers.

        Returns:
            Rows int64 [B, L], best first, and bool [B, L], which of them are results; L is `limit` or N,
            whichever is smaller.
        """
        scores = tf.where(self._index.hidden[None, :], EXCLUDED, self._scores)  # those behind them too
        if changed is not None:
            new = tf.where(changed.findable, self.products(changed.rows, changed.bias), EXCLUDED)
            scores = tf.tensor_scatter_nd_update(scores, reader_pairs(changed.rows), tf.reshape(new, [-1]))
        lowest = tf.fill([tf.shape(excluded)[0]], EXCLUDED)
        # In place, as nothing else reads the scores before.
        scores = tf.tensor_scatter_nd_update(scores, excluded, lowest)
        best, rows = top_columns(scores, tf.minimum(limit, tf.cast(self._index.articles, tf.int32)))
        return tf.cast(rows, tf.int64), best > EXCLUDED / 2
