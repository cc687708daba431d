"""Exact search: the greatest of many scores, in portable ops.

`tf.math.top_k` looks at one score after the other. Over a million articles that takes longer than the matrix
product before it as soon as some requests share a batch. The greatest of each block of scores costs one
vectorized pass, and the best K scores can only lie in the K blocks whose greatest are best.
"""

import tensorflow as tf

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
