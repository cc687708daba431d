"""Metrics for `compile`: of single impressions, and of the whole pool."""

from genre_tf.lazy import offered

__all__ = ["ImpressionAUC", "ImpressionMRR", "ImpressionNDCG", "PoolRecall"]
__getattr__ = offered(__name__, dict.fromkeys(__all__, "genre_tf.metrics.impressions"))
