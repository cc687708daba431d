"""A trace of some steps for TensorBoard's Profile tab: where their time goes, op by op."""

from pathlib import Path

import tensorflow as tf


class StepTrace:
    """Traces the steps of a span; a call of several steps that touches the span is traced whole.

    Args:
        logs: folder that TensorBoard reads.
        steps: first and last step, counted from 1; None: nothing is traced. The first steps of a process also
            build its graph: a span behind them tells more.
    """

    def __init__(self, logs: Path, steps: tuple[int, int] | None) -> None:
        self.logs, self.steps, self.running = logs, steps, False

    def before(self, first: int, last: int) -> None:
        """Begin, where the steps that come next touch the span."""
        if self.steps is None or self.running or first > self.steps[1] or last < self.steps[0]:
            return
        tf.profiler.experimental.start(str(self.logs))
        self.running = True

    def after(self, step: int) -> None:
        """End and write, behind the last step of the span."""
        if self.steps is not None and step >= self.steps[1]:
            self.close()

    def close(self) -> None:
        """End and write what runs still."""
        if self.running:
            self.running = False
            tf.profiler.experimental.stop()
