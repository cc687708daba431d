"""Metrics for `compile`: of single impressions, and of the whole pool."""

from genre_tf.metrics.impressions import ImpressionAUC, ImpressionMRR, ImpressionNDCG, PoolRecall

__all__ = ["ImpressionAUC", "ImpressionMRR", "ImpressionNDCG", "PoolRecall"]
