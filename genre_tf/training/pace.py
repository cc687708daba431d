"""What the steps of a training took: rows, seconds, and how long they waited for their batches."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What some steps took; paces add up.

    Attributes:
        steps: how many.
        examples: rows of their batches.
        seconds: of wall clock, from the call of the compiled function until its losses were there. The
            first call holds its tracing; validation and saving are not in it.
        waited: seconds of these in which the step had no batch yet.
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
        """Share of the seconds that was spent waiting, 0 to 1."""
        return self.waited / self.seconds if self.seconds else 0.0

    @property
    def scalars(self) -> dict[str, float]:
        """For TensorBoard: `input_wait_ms` of a mean step, `examples_per_second`."""
        return {
            "input_wait_ms": 1000.0 * self.waited / max(1, self.steps),
            "examples_per_second": self.examples / self.seconds if self.seconds else 0.0,
        }


@dataclass(frozen=True)
class Executed:
    """What one call of the compiled function did.

    Attributes:
        losses: of each step.
        pace: of all of them.
    """

    losses: Sequence[float]
    pace: Pace
