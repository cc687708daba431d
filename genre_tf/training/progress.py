"""The progress of a training, its result, what the rest of it will take, and its memory."""

import ctypes
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genre_tf.training.learner import Pace
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


_ENOUGH_SECONDS, _ENOUGH_STEPS = 2.0, 5  # then the pace is known to about a tenth
_AT_MOST_SECONDS = 10.0
_LONG_SECONDS = 15.0
"""A first call that took less may consist mostly of tracing, and is timed again."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The expected duration of a training, if it is not stopped early.

    Attributes:
        steps: number of steps to do.
        step_seconds: seconds per step.
        validations: number of validations to do.
        validation_seconds: seconds per validation.
        other_seconds: what comes before the first step and after the last.
    """

    steps: int
    step_seconds: float
    validations: int
    validation_seconds: float
    other_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        trained = self.steps * self.step_seconds + self.validations * self.validation_seconds
        return self.other_seconds + trained

    def __str__(self) -> str:
        rate, each = 1 / max(self.step_seconds, 1e-6), f"{self.step_seconds:.1f} s each"
        pace = each if rate < 1 else f"{rate:.1f} per second" if rate < 10 else f"{rate:.0f} per second"
        parts = [f"{self.steps:,} steps, {pace}"]
        some = "1 validation" if self.validations == 1 else f"{self.validations} validations"
        parts.append(f"{some} of {self.validation_seconds:.1f} s")
        if self.other_seconds:
            parts.append(f"{self.other_seconds:.0f} s before and after")
        return f"{', '.join(parts)}: about {duration(self.seconds)}"


def validations_left(steps: int, done: int, every: int) -> int:
    """Number of validations after step `done`: one every so many steps, and one at the end."""
    return math.ceil(steps / every) - done // every if done < steps else 0


def duration(seconds: float) -> str:
    """A time span in the unit that people would use: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Stopwatch:
    """Times steps; the first call of the compiled function, which includes its tracing, does not count."""

    def __init__(self) -> None:
        self.traced, self.timed = False, Pace()

    def note(self, pace: Pace) -> None:
        """Receive the pace of some steps."""
        if self.traced:
            self.timed += pace
        self.traced = True

    @property
    def step_seconds(self) -> float | None:
        """Seconds per step; None until enough steps were timed."""
        seconds, steps = self.timed.seconds, self.timed.steps
        enough = seconds >= _ENOUGH_SECONDS and steps >= _ENOUGH_STEPS
        return self.rough if enough or (steps and seconds >= _AT_MOST_SECONDS) else None

    @property
    def rough(self) -> float:
        """Seconds per step from whatever was timed; 0 if nothing was."""
        return self.timed.seconds / max(1, self.timed.steps)


def seconds_of(call: Callable[[], Any], traced_seconds: float | None = None) -> float:
    """Wall-clock seconds of a call. A short first call is repeated, because it may mostly have been tracing.

    Args:
        call: what to time.
        traced_seconds: what its first call took; None: it was not called yet.
    """
    found = _timed(call) if traced_seconds is None else traced_seconds
    return found if found > _LONG_SECONDS else min(found, _timed(call))


def _timed(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


_STATUS = Path("/proc/self/statm")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h
_NEVER = -1  # value of the trim threshold, see mallopt(3)


def peak_memory_gb() -> float:
    """Peak resident memory so far, in 1e9 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9  # bytes on macOS, KiB elsewhere


def memory() -> dict[str, float]:
    """For TensorBoard: `memory_gb`, resident now, in 1e9 bytes; empty if the system does not report it."""
    try:
        pages = int(_STATUS.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return {}
    return {"memory_gb": pages * resource.getpagesize() / 1e9}


def keep_freed_memory() -> bool:
    """Let this process keep memory that a training step frees, because the next step needs as much.

    glibc returns large blocks to the system at once and gets them back, page by page, in the next step. For a
    small GPT-2 on two cores this is a third of the step time. Resident memory then stays at its peak.

    Returns:
        Whether the allocator has these settings; if not, nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
