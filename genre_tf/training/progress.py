"""How far a training has come, and what it came to."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Report = Callable[[str], None]
"""Takes a line of progress."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a training is judged by.

    Args:
        validate: computes validation metrics, by name.
        metric: the one that decides which weights are best.
        greater_is_better: its direction.
        validate_older: the same metrics on what an earlier run held out, for a training that goes on from it.
        show: texts in Markdown for people to look at after each validation, by name.
    """

    validate: Callable[[], Mapping[str, float]]
    metric: str
    greater_is_better: bool
    validate_older: Callable[[], Mapping[str, float]] | None = None
    show: Callable[[], Mapping[str, str]] | None = None

    def better(self, value: float, best: float) -> bool:
        """Whether a value beats the best so far; any value beats none, which is no number."""
        return math.isnan(best) or (value > best if self.greater_is_better else value < best)


@dataclass
class Progress:
    """How far a training has come; saved and read back with its state.

    Attributes:
        step: steps done.
        before: the metric before the first step; no number until then, as `best`.
        best: its best value, whose weights are kept.
        best_step: when.
        waited: validations since then.
        validated: step of the last validation, -1 before the first.
        loss_sum: of the steps since the last validation.
        loss_count: those steps.
        seconds: of wall clock so far.
        step_seconds: of these, those of the steps themselves.
        input_wait_seconds: of these again, those in which a step had no batch yet.
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


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Attributes:
        metric: name of the validation metric.
        before: its value before the first step.
        best: its best value, whose weights were kept.
        best_step: when; 0 if no step made it better.
        steps: done.
        stopped_early: whether patience ran out.
        seconds: of wall clock, all resumptions together.
        steps_per_second: over the whole training, validations included.
        input_wait_share: of the time of the steps, without validation and saving, the share that was spent
            waiting for batches.
        peak_memory_gb: the most that the process had resident until then, in 1e9 bytes.
        trainable_parameters: number of trained values.
        older_before: of a training that goes on from an earlier run: the metric of that run's weights on what
            it held out itself; None for one from the beginning.
        older_after: that of the new weights.
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

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a report."""
        return asdict(self)


def comparison(results: Mapping[str, FitResult]) -> list[str]:
    """A table of what the weights that trainings started from, and the new ones, are worth.

    Args:
        results: of trainings that go on from an earlier run, by stage; others are left out.

    Returns:
        Its lines; none where no training went on from another.
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
