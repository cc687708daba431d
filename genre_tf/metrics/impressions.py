"""Keras metrics of impressions [B, C] and of whole pools; padding has the label -1.

Candidates with equal scores share their chances, as in `genre_tf.metrics.ranking`, which computes the same
numbers for whole logs.
"""

from typing import Any

import keras
import tensorflow as tf


class _MeanOfImpressions(keras.metrics.Mean):
    """Mean of a value over impressions, without those for which it is undefined."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add impressions.

        Args:
            y_true: [B, C], 1 for a click, 0 for an article shown without one, -1 for padding.
            y_pred: float [B, C], scores; larger is better.
            sample_weight: ignored: every impression counts the same.
        """
        labels, scores = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        real = tf.cast(labels >= 0, tf.float32)
        values, defined = self._of_rows(tf.maximum(labels, 0.0), scores, real)
        super().update_state(tf.where(defined, values, 0.0), sample_weight=tf.cast(defined, tf.float32))

    def _of_rows(self, labels: Any, scores: Any, real: Any) -> tuple[Any, Any]:
        raise NotImplementedError


@keras.saving.register_keras_serializable("genre_tf")
class ImpressionAUC(_MeanOfImpressions):
    """Area under the ROC curve of each impression, averaged (MIND's AUC).

    Impressions without a click, or with clicks only, are left out.

    Example:
        >>> auc = genre_tf.metrics.ImpressionAUC()
        >>> auc.update_state([[1, 0, 0, -1]], [[0.5, 0.9, 0.1, 0.0]])
        >>> float(auc.result())
        0.5
    """

    def __init__(self, name: str = "impression_auc", **options: Any) -> None:
        super().__init__(name=name, **options)

    def _of_rows(self, labels: Any, scores: Any, real: Any) -> tuple[Any, Any]:
        differences = scores[:, :, None] - scores[:, None, :]
        won = tf.cast(differences > 0, tf.float32) + 0.5 * tf.cast(differences == 0, tf.float32)
        pairs = labels[:, :, None] * (real - labels)[:, None, :]  # (clicked, not clicked)
        count = tf.reduce_sum(pairs, [1, 2])
        return tf.reduce_sum(won * pairs, [1, 2]) / tf.maximum(count, 1.0), count > 0


class _Discounted(_MeanOfImpressions):
    """Sum over the clicked candidates of a gain that depends on the position, relative to a best value."""

    def _gains(self, positions: Any) -> Any:
        """Gain of each position, float32, 0 for the first."""
        raise NotImplementedError

    def _best(self, clicks: Any, reached: Any) -> Any:
        """Greatest possible sum for so many clicks; `reached` [C + 1] holds sums of the first gains."""
        raise NotImplementedError

    def _of_rows(self, labels: Any, scores: Any, real: Any) -> tuple[Any, Any]:
        scores = tf.where(real > 0, scores, -float("inf"))
        better = tf.reduce_sum(tf.cast(scores[:, None, :] > scores[:, :, None], tf.int32), 2)
        tied = tf.reduce_sum(tf.cast(scores[:, None, :] == scores[:, :, None], tf.int32), 2)
        gains = self._gains(tf.cast(tf.range(tf.shape(scores)[1]), tf.float32))
        reached = tf.concat([[0.0], tf.cumsum(gains)], 0)  # [candidates + 1]
        expected = tf.gather(reached, better + tied) - tf.gather(reached, better)
        gained = tf.reduce_sum(labels * expected / tf.cast(tied, tf.float32), 1)
        clicks = tf.reduce_sum(labels, 1)
        best = self._best(tf.cast(clicks, tf.int32), reached)
        return gained / tf.maximum(best, 1e-9), (clicks > 0) & (clicks < tf.reduce_sum(real, 1))


@keras.saving.register_keras_serializable("genre_tf")
class ImpressionNDCG(_Discounted):
    """Normalised discounted cumulative gain at k of each impression, averaged (MIND's nDCG@k).

    Args:
        k: number of places that count.

    Example:
        >>> ndcg = genre_tf.metrics.ImpressionNDCG(k=5)
        >>> ndcg.update_state([[1, 0, 0]], [[0.5, 0.9, 0.1]])
        >>> round(float(ndcg.result()), 4)
        0.6309
    """

    def __init__(self, k: int = 10, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name or f"impression_ndcg@{k}", **options)
        self.k = k

    def _gains(self, positions: Any) -> Any:
        return tf.where(positions < self.k, tf.math.log(2.0) / tf.math.log(positions + 2.0), 0.0)

    def _best(self, clicks: Any, reached: Any) -> Any:
        return tf.gather(reached, clicks)

    def get_config(self) -> dict[str, Any]:
        """The arguments of this metric."""
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable("genre_tf")
class ImpressionMRR(_Discounted):
    """MIND's MRR: the mean reciprocal rank over all clicked articles of an impression, averaged.

    Example:
        >>> mrr = genre_tf.metrics.ImpressionMRR()
        >>> mrr.update_state([[1, 0, 0]], [[0.5, 0.9, 0.1]])
        >>> float(mrr.result())
        0.5
    """

    def __init__(self, name: str = "impression_mrr", **options: Any) -> None:
        super().__init__(name=name, **options)

    def _gains(self, positions: Any) -> Any:
        return 1.0 / (positions + 1.0)

    def _best(self, clicks: Any, reached: Any) -> Any:
        return tf.cast(clicks, tf.float32)


@keras.saving.register_keras_serializable("genre_tf")
class PoolRecall(_MeanOfImpressions):
    """Share of the clicked articles among the first k of the whole pool of their moment.

    The pool is every article that could be shown then and was not read; articles with an equal score count as
    better. `TwoTower.evaluate` measures it on the log of its batches.

    Args:
        k: number of retrieved articles.

    Example:
        >>> recall = genre_tf.metrics.PoolRecall(k=1)
        >>> recall.update_state([[1, 0, 1]], [[0.9, 0.5, 0.1]])
        >>> float(recall.result())
        0.5
    """

    of_pool = True

    def __init__(self, k: int = 100, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name or f"pool_recall@{k}", **options)
        self.k = k

    def _of_rows(self, labels: Any, scores: Any, real: Any) -> tuple[Any, Any]:
        scores = tf.where(real > 0, scores, -float("inf"))
        ascending = tf.sort(scores, axis=1)
        rank = tf.shape(scores)[1] - tf.searchsorted(ascending, scores, side="left")
        found = tf.reduce_sum(labels * tf.cast(rank <= self.k, tf.float32), 1)
        clicks = tf.reduce_sum(labels, 1)
        return found / tf.maximum(clicks, 1.0), clicks > 0

    def get_config(self) -> dict[str, Any]:
        """The arguments of this metric."""
        return {**super().get_config(), "k": self.k}
