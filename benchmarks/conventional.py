"""The conventional training batch: every article of every row encoded again, at a fixed number of tokens."""

from typing import Any

import tensorflow as tf

from genre_tf.models.article_features import ArticleFeatures


def each_article_again(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The same impressions without sharing: an article that occurs twice in the batch is encoded twice.

    Args:
        batch: from `impression_batches`.

    Returns:
        The batch with a longer `articles`: the padding article, then one entry for each real candidate and
        for each click of each history.
    """
    shown, read = batch["mask"], batch["history"] > 0
    rows = [
        tf.boolean_mask(tf.gather(batch["articles"], batch[name]), real)
        for name, real in (("candidates", shown), ("history", read))
    ]
    return {
        **batch,
        "articles": tf.concat([[0], *rows], 0),
        "candidates": _numbered(shown, 1),
        "history": _numbered(read, 1 + tf.size(rows[0])),
    }


def unshared(batches: tf.data.Dataset, features: ArticleFeatures, tokens: int) -> tf.data.Dataset:
    """Batches of impressions as the conventional recipe reads them, with features."""
    return features.pipeline(batches.map(each_article_again), tokens)


def _numbered(real: tf.Tensor, first: Any) -> tf.Tensor:
    """Consecutive positions from `first` where `real` is True, 0 elsewhere: int32, same shape as `real`."""
    counted = tf.cumsum(tf.cast(tf.reshape(real, [-1]), tf.int32), exclusive=True)
    return tf.where(real, tf.reshape(counted, tf.shape(real)) + first, 0)
