"""Losses for `compile`: they read logits, and labels in which -1 marks padding."""

from genre_tf.losses.clicks import ClickCrossEntropy, ClickSoftmax, SampledSoftmax

__all__ = ["ClickCrossEntropy", "ClickSoftmax", "SampledSoftmax"]
