"""Measured pace of training steps: rows, seconds, and time spent waiting for batches."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The pace of some steps; paces can be added.

    Attributes:
        steps: number of steps.
        examples: rows in their batches.
        seconds: wall-clock time from the call of the compiled function until its losses were available. The
            first call includes tracing; validation and saving are not included.
        waited: how many of these seconds a step waited for its batch.
    """

    steps: int = 0
    examples: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0

    def __add__(self, other: "Pace") -> "Pace":
        return Pace(
            steps=self.steps + other.steps,
            examples=self.examples + other.examples,
            seconds=self.seconds + other.seconds,
            waited=self.waited + other.waited,
        )

    @property
    def input_wait_share(self) -> float:
        """Share of the time that was spent waiting, 0 to 1."""
        return self.waited / self.seconds if self.seconds else 0.0

    @property
    def scalars(self) -> dict[str, float]:
        """For TensorBoard: `input_wait_ms` per step and `examples_per_second`."""
        return {
            "input_wait_ms": 1000.0 * self.waited / max(1, self.steps),
            "examples_per_second": self.examples / self.seconds if self.seconds else 0.0,
        }


@dataclass(frozen=True)
class Executed:
    """The result of one call of the compiled function.

    Attributes:
        losses: loss of each step.
        pace: pace of all its steps.
    """

    losses: Sequence[float]
    pace: Pace
