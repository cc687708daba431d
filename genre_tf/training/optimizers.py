"""Optimizers and learning-rate schedules by name."""

from collections.abc import Iterable
from typing import Any

import keras

from genre_tf.backbones.trainable import wants_loss_scaling
from genre_tf.config import OptimizerConfig

# Decay pulls towards zero, which is wrong for offsets, scales, gates and weights with a chosen start value.
_NOT_DECAYED = ("bias", "gamma", "beta", "gate", "sharpness", "similarity_weights", "no_history", "recency")


def learning_rate(config: OptimizerConfig, steps: int) -> Any:
    """The schedule over all steps: linear warm-up from zero, then decay to zero at the last step, or none."""
    warmup = min(steps - 1, max(0, round(config.warmup_share * steps)))
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else config.learning_rate,
        max(1, steps - warmup),
        0.0 if config.decay == "cosine" else 1.0,  # the share of the peak that is left at the last step
        warmup_target=config.learning_rate,
        warmup_steps=warmup,
    )


def make_optimizer(config: OptimizerConfig, steps: int, weights: Iterable[Any]) -> keras.optimizers.Optimizer:
    """The optimizer of a stage of that many steps; it scales the loss if gradients pass through float16.

    Offsets and scales among the trained weights are not decayed.
    """
    rate, weights = learning_rate(config, steps), list(weights)
    clip = config.clip_norm if config.clip_norm > 0 else None
    common: dict[str, Any] = {"global_clipnorm": clip, "weight_decay": config.weight_decay or None}
    if config.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, **{**common, "weight_decay": config.weight_decay})
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=config.momentum, **common)
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(
            var_list=[weight for weight in weights if any(name in weight.path for name in _NOT_DECAYED)]
        )
    # Keras only does so if the whole model, including heads and losses, has that policy.
    return keras.optimizers.LossScaleOptimizer(optimizer) if wants_loss_scaling(weights) else optimizer
