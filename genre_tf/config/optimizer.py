"""How a stage is optimised, and the ranges of settings."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from genre_tf.errors import InputError

Stage = TypeVar("Stage", bound=Any)


_RANGES = (
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
    ("validate_every", 0, math.inf),
    ("patience", 1, math.inf),
    ("save_every_seconds", 0.0, math.inf),
)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer, schedule and stopping of one stage.

    A step is one update of the weights, whatever number of batches it reads: warm-up, decay, `steps`,
    `validate_every` and `patience` mean the same with `accumulate` as without.
    """

    optimizer: str = "adamw"  # or "sgd"
    learning_rate: float = 3e-4  # above it small logs are overfitted within an epoch (measured)
    warmup_share: float = 0.1  # of all steps, linear from zero
    decay: str = "cosine"  # or "linear", "none"; down to zero at the last step
    weight_decay: float = 0.01  # not on biases, norms and scales
    clip_norm: float = 1.0  # 0: gradients are not clipped
    momentum: float = 0.9  # sgd only
    batch_size: int = 32
    accumulate: int = 1  # batches whose gradients make one step: large batches in the memory of small ones
    steps_per_execution: int = 1  # steps in one call of the compiled function; saves calls, for TPU and GPU
    epochs: int = 3
    steps: int = 0  # above zero: this many steps instead of epochs
    validate_every: int = 0  # steps; 0: four times an epoch, whatever the size of the log
    patience: int = 5  # validations without a better one before stopping
    save_every_seconds: float = 30.0  # the state is saved at each validation too: what a kill can cost

    def __post_init__(self) -> None:
        """Refuse a value out of its range with an `InputError`."""
        check_ranges("optimizer", self, _RANGES)

    def steps_of(self, batches: int) -> int:
        """How many steps a training has.

        Args:
            batches: of an epoch.
        """
        return self.steps or max(1, math.ceil(self.epochs * batches / self.accumulate))

    def of_epoch(self, batches: int) -> "OptimizerConfig":
        """The same settings with `validate_every` in steps, for epochs of so many batches."""
        quarter = max(1, round(batches / self.accumulate / 4))
        return dataclasses.replace(self, validate_every=self.validate_every or quarter)


def optimizer_of(stage: Any) -> OptimizerConfig:
    """The optimizer in force with a stage's settings: a stage may have several, and then names one."""
    settings: OptimizerConfig = getattr(stage, _name(stage))
    return settings


def with_optimizer(stage: Stage, changed: Mapping[str, Any]) -> Stage:
    """A stage's settings with other values for the optimizer that is in force.

    Args:
        stage: a dataclass.
        changed: fields of `OptimizerConfig`.
    """
    optimizer = dataclasses.replace(optimizer_of(stage), **changed)
    return dataclasses.replace(stage, **{_name(stage): optimizer})


def _name(stage: Any) -> str:
    name: str = getattr(stage, "optimizer_name", "optimizer")
    return name


def check_ranges(section: str, settings: Any, ranges: Sequence[tuple[str, float, float]]) -> None:
    """See that settings lie within their ranges.

    Args:
        section: its name in a TOML file.
        settings: the dataclass.
        ranges: name, least and greatest value of each number, or of each number of a tuple.

    Raises:
        InputError: one does not.
    """
    for name, least, most in ranges:
        value = getattr(settings, name)
        for each in value if isinstance(value, tuple) else (value,):
            if not least <= each <= most:
                raise InputError(f"{section}.{name} lies within {least:g} and {most:g}, not at {each:g}")
