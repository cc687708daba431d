"""The progress of a training, and its result."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genre_tf.training.quality import Quality

Report = Callable[[str], None]
"""Takes a line of progress."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """How a training is judged.

    Args:
        validate: computes the validation metrics by name.
        metric: the metric that decides which weights are best.
        greater_is_better: whether a greater value is better.
        validate_older: the same metrics on the examples that an earlier run held out, for a training that
            continues from it.
        show: Markdown texts by name, to look at after each validation.
        judge: compares the best weights with baselines on the validation data.
    """

    validate: Callable[[], Mapping[str, float]]
    metric: str
    greater_is_better: bool
    validate_older: Callable[[], Mapping[str, float]] | None = None
    show: Callable[[], Mapping[str, str]] | None = None
    judge: Callable[[], Sequence[Quality]] | None = None

    def look(self) -> None:
        """Do what each validation does, without a use of it: to see how long it takes."""
        self.validate()
        if self.show is not None:
            self.show()

    def better(self, value: float, best: float) -> bool:
        """Whether a value beats the best so far. NaN means no value yet; anything beats it."""
        return math.isnan(best) or (value > best if self.greater_is_better else value < best)


@dataclass
class Progress:
    """The progress of a training; saved and loaded with its state.

    Attributes:
        step: number of steps done.
        before: the metric before the first step; NaN until then, like `best`.
        best: its best value; those weights are kept.
        best_step: the step of the best value.
        waited: validations since the best value.
        validated: step of the last validation, -1 before the first.
        loss_sum: sum of the losses since the last validation.
        loss_count: number of these losses.
        seconds: wall-clock seconds so far.
        step_seconds: how many of them the steps themselves took.
        input_wait_seconds: how many of these a step waited for its batch.
        validation_seconds: how long the last validation took.
    """

    step: int = 0
    before: float = math.nan
    best: float = math.nan
    best_step: int = 0
    waited: int = 0
    validated: int = -1
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    input_wait_seconds: float = 0.0
    validation_seconds: float = 0.0


@dataclass(frozen=True)
class FitResult:
    """The result of a training.

    Attributes:
        metric: name of the validation metric.
        before: its value before the first step.
        best: its best value; those weights were kept.
        best_step: the step of the best value; 0 if no step improved it.
        steps: number of steps done.
        stopped_early: whether patience ran out.
        seconds: wall-clock seconds, including all resumptions.
        steps_per_second: over the whole training, including validation.
        input_wait_share: share of the step time (without validation and saving) that was spent waiting for
            batches.
        peak_memory_gb: peak resident memory of the process until then, in 1e9 bytes.
        trainable_parameters: number of trainable parameters.
        older_before: if the training continues from an earlier run: the metric of that run's weights on its
            held-out examples; else None.
        older_after: the same metric of the new weights.
        quality: the best weights on the validation data, beside the best baseline.
    """

    metric: str
    before: float
    best: float
    best_step: int
    steps: int
    stopped_early: bool
    seconds: float
    steps_per_second: float
    input_wait_share: float
    peak_memory_gb: float
    trainable_parameters: int
    older_before: float | None = None
    older_after: float | None = None
    quality: tuple[Quality, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FitResult":
        """The result that `as_dict` was called on."""
        return cls(**{**values, "quality": tuple(Quality(**each) for each in values.get("quality", ()))})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a report."""
        return asdict(self)


def comparison(results: Mapping[str, FitResult]) -> list[str]:
    """A table that compares initial and new weights on the held-out data.

    Args:
        results: training results by stage; only those that continue from an earlier run are shown.

    Returns:
        Its lines; empty if no training continues from another.
    """
    rows: list[tuple[str, float, float]] = []
    for stage, result in results.items():
        if result.older_before is not None and result.older_after is not None:
            name = f"{stage} {result.metric}"
            rows.append((f"{name}, new log", result.before, result.best))
            rows.append((f"{name}, earlier log", result.older_before, result.older_after))
    if not rows:
        return []
    width = max(len(name) for name, *_ in rows)
    lines = [f"{'held out':{width}}  {'before':>9}  {'after':>9}  {'difference':>10}"]
    for name, before, after in rows:
        lines.append(f"{name:{width}}  {before:9.4f}  {after:9.4f}  {after - before:+10.4f}")
    return lines
