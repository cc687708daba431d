"""Optimizers and learning-rate schedules by name."""

from collections.abc import Iterable
from typing import Any

import keras

from genre_tf.backbones.trainable import wants_loss_scaling
from genre_tf.config import OptimizerConfig

# Decay pulls towards zero, which is wrong for offsets, scales, gates and weights with a chosen start value.
_NOT_DECAYED = ("bias", "gamma", "beta", "gate", "sharpness", "similarity_weights", "no_history", "recency")


def learning_rate(config: OptimizerConfig, steps: int) -> Any:
    """The schedule over all steps: linear warm-up from zero, then decay to zero at the last step."""
    warmup = min(steps - 1, max(0, round(config.warmup_share * steps)))
    rest = max(1, steps - warmup)
    if config.decay == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else config.learning_rate,
            rest,
            0.0,
            warmup_target=config.learning_rate,
            warmup_steps=warmup,
        )
    return LinearWarmupDecay(config.learning_rate, warmup, rest if config.decay == "linear" else 0)


@keras.saving.register_keras_serializable(package="genre_tf")
class LinearWarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to the peak, then linear decay to zero; `decay_steps` 0 stays at the peak."""

    def __init__(self, peak: float, warmup_steps: int, decay_steps: int) -> None:
        self.peak, self.warmup_steps, self.decay_steps = peak, warmup_steps, decay_steps

    def __call__(self, step: Any) -> Any:
        """Learning rate at a step, float32 []."""
        step = keras.ops.cast(step, "float32")
        up = (step + 1) / max(1, self.warmup_steps)
        down = 1.0 - (step - self.warmup_steps) / self.decay_steps if self.decay_steps else 1.0
        return self.peak * keras.ops.clip(keras.ops.minimum(up, down), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Arguments to rebuild it."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "decay_steps": self.decay_steps}


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
