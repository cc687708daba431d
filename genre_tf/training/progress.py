"""The progress of a training, its result, what the rest of it will take, and its memory."""

import contextlib
import ctypes
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genre_tf.training.learner import Pace
from genre_tf.training.quality import Quality

Report = Callable[[str], None]
"""Takes a line of progress."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """How a training is judged."""

    validate: Callable[[], Mapping[str, float]]
    metric: str  # the one that decides which weights are best
    greater_is_better: bool
    # The same metrics on what an earlier run held out, if the training continues from it.
    validate_older: Callable[[], Mapping[str, float]] | None = None
    show: Callable[[], Mapping[str, str]] | None = None  # Markdown by name, to look at after each validation
    judge: Callable[[], Sequence[Quality]] | None = None  # compares the best weights with baselines

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
    """The progress of a training; saved and loaded with its state."""

    step: int = 0
    before: float = math.nan  # the metric before the first step; NaN until then, like `best`
    best: float = math.nan  # its best value; those weights are kept
    best_step: int = 0
    waited: int = 0  # validations since the best value
    validated: int = -1  # step of the last validation, -1 before the first
    loss_sum: float = 0.0  # of the losses since the last validation
    loss_count: int = 0
    seconds: float = 0.0  # wall-clock seconds so far
    step_seconds: float = 0.0  # how many of them the steps themselves took
    input_wait_seconds: float = 0.0  # how many of these a step waited for its batch
    validation_seconds: float = 0.0  # how long the last validation took


@dataclass(frozen=True)
class FitResult:
    """The result of a training."""

    metric: str
    before: float
    best: float
    best_step: int  # those weights were kept; 0 if no step improved the metric
    steps: int
    stopped_early: bool
    seconds: float  # wall-clock, including all resumptions
    steps_per_second: float  # over the whole training, including validation
    input_wait_share: float  # of the step time, without validation and saving
    peak_memory_gb: float  # peak resident memory of the process until then, in 1e9 bytes
    trainable_parameters: int
    # If the training continues from an earlier run: the metric of that run's weights on what it held out, and
    # that of the new weights.
    older_before: float | None = None
    older_after: float | None = None
    quality: tuple[Quality, ...] = ()  # the best weights on the validation data, beside the best baseline

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FitResult":
        """The result that was written as plain values."""
        return cls(**{**values, "quality": tuple(Quality(**each) for each in values.get("quality", ()))})


_ENOUGH_SECONDS, _ENOUGH_STEPS = 2.0, 5  # then the pace is known to about a tenth
_AT_MOST_SECONDS = 10.0
_LONG_SECONDS = 15.0
"""A first call that took less may consist mostly of tracing, and is timed again."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The expected duration of a training, if it is not stopped early."""

    steps: int
    step_seconds: float
    validations: int
    validation_seconds: float
    other_seconds: float = 0.0  # what comes before the first step and after the last

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

    def timed() -> float:
        began = time.monotonic()
        call()
        return time.monotonic() - began

    found = timed() if traced_seconds is None else traced_seconds
    return found if found > _LONG_SECONDS else min(found, timed())


_STATUS = Path("/proc/self/statm")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h
_NEVER = -1  # value of the trim threshold, see mallopt(3)
_USUAL_TRIM_THRESHOLD, _USUAL_MMAP_MAX = 128 * 1024, 65536  # glibc's defaults


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


def return_freed_memory() -> None:
    """Undo `keep_freed_memory` after the steps: what follows needs memory at other places."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, _USUAL_MMAP_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, _USUAL_TRIM_THRESHOLD)
        libc.malloc_trim(0)
