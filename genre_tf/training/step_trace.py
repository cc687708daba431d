"""A trace of some steps for TensorBoard's Profile tab: time per op."""

from pathlib import Path

import tensorflow as tf


class StepTrace:
    """Traces the steps of a range; a call of several steps that overlaps the range is traced whole.

    Args:
        logs: folder that TensorBoard reads.
        steps: first and last step, counted from 1; None: no trace. The first steps of a process also build
            its graph, so later steps are more informative.
    """

    def __init__(self, logs: Path, steps: tuple[int, int] | None) -> None:
        self.logs, self.steps, self.running = logs, steps, False

    def before(self, first: int, last: int) -> None:
        """Start the trace if the next steps overlap the range."""
        if self.steps is None or self.running or first > self.steps[1] or last < self.steps[0]:
            return
        tf.profiler.experimental.start(str(self.logs))
        self.running = True

    def after(self, step: int) -> None:
        """Stop and write the trace after the last step of the range."""
        if self.steps is not None and step >= self.steps[1]:
            self.close()

    def close(self) -> None:
        """Stop and write a trace that is still running."""
        if self.running:
            self.running = False
            tf.profiler.experimental.stop()
