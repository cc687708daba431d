"""How a stage is optimised, and the check of settings against their ranges."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from genre_tf.errors import InputError

Stage = TypeVar("Stage", bound=Any)
Range = tuple[str, float, float]
"""Name, least and greatest value of a setting; for a tuple, of each number in it."""

_MOST_VALIDATIONS = 12  # that of a small writer takes as long as forty of its steps

OPTIMIZER_RANGES: tuple[Range, ...] = (
    ("learning_rate", 0.0, math.inf),
    ("warmup_share", 0.0, 1.0),
    ("weight_decay", 0.0, math.inf),
    ("clip_norm", 0.0, math.inf),
    ("momentum", 0.0, 1.0),
    ("batch_size", 1, math.inf),
    ("accumulate", 1, math.inf),
    ("steps_per_execution", 1, math.inf),
    ("epochs", 1, math.inf),
    ("steps", 0, math.inf),
    ("most_steps", 0, math.inf),
    ("validate_every", 0, math.inf),
    ("patience", 1, math.inf),
    ("save_every_seconds", 0.0, math.inf),
)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer, schedule and stopping of one stage.

    A step is one update of the weights, however many batches it reads: warm-up, decay, `steps`,
    `validate_every` and `patience` mean the same with and without `accumulate`.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 3e-4  # at higher rates small logs overfit within an epoch (measured)
    warmup_share: float = 0.1  # share of all steps; linear from zero
    decay: Literal["cosine", "linear", "none"] = "cosine"  # down to zero at the last step
    weight_decay: float = 0.01  # not applied to biases, norms and scales
    clip_norm: float = 1.0  # 0: gradients are not clipped
    momentum: float = 0.9  # sgd only
    batch_size: int = 32
    accumulate: int = 1  # batches averaged into one step: large batches in the memory of small ones
    steps_per_execution: int = 1  # steps per call of the compiled function; fewer calls, for TPU and GPU
    epochs: int = 3
    steps: int = 0  # above zero: this many steps instead of epochs
    most_steps: int = 0  # limit of the steps that `epochs` gives; 0: no limit
    validate_every: int = 0  # in steps; 0: four times per epoch, but at most twelve times in all
    patience: int = 5  # validations without improvement before training stops
    save_every_seconds: float = 30.0  # the most that a kill can lose; each validation saves the state too

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("optimizer", self, OPTIMIZER_RANGES)

    def steps_of(self, batches: int) -> int:
        """Number of training steps.

        Args:
            batches: batches per epoch.
        """
        if self.steps:
            return self.steps
        steps = max(1, math.ceil(self.epochs * batches / self.accumulate))
        return min(steps, self.most_steps or steps)

    def of_epoch(self, batches: int) -> "OptimizerConfig":
        """The same settings with `validate_every` as a number of steps, for epochs of `batches` batches."""
        epoch, steps = batches / self.accumulate, self.steps_of(batches)
        if self.most_steps:  # an epoch may be longer than the training
            epoch = min(epoch, steps)
        every = max(1, round(epoch / 4), math.ceil(steps / _MOST_VALIDATIONS))
        return dataclasses.replace(self, validate_every=self.validate_every or every)


def optimizer_of(stage: Any) -> OptimizerConfig:
    """The optimizer settings that apply to a stage; a stage with several names one in `optimizer_name`."""
    settings: OptimizerConfig = getattr(stage, _name(stage))
    return settings


def with_optimizer(stage: Stage, changed: Mapping[str, Any]) -> Stage:
    """A stage's settings with other values for the optimizer that applies.

    Args:
        stage: the settings, a dataclass.
        changed: new values for fields of `OptimizerConfig`.
    """
    optimizer = dataclasses.replace(optimizer_of(stage), **changed)
    return dataclasses.replace(stage, **{_name(stage): optimizer})


def _name(stage: Any) -> str:
    name: str = getattr(stage, "optimizer_name", "optimizer")
    return name


def check_ranges(section: str, settings: Any, ranges: Sequence[Range]) -> None:
    """Check that settings are within their ranges.

    Args:
        section: name of the settings in a TOML file.
        settings: the dataclass.
        ranges: of its settings.

    Raises:
        InputError: a value is out of its range.
    """
    for name, least, most in ranges:
        value = getattr(settings, name)
        for each in value if isinstance(value, tuple) else (value,):
            if not least <= each <= most:
                expected = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
                raise InputError(f"{section}.{name} must be {expected}; got {each:g}")
