"""What a training will take, from the time of its first steps."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from genre_tf.training.learner import Pace

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
