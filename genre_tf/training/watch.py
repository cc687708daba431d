"""What happens between training steps: scalars, validation, best weights, saved states, stops."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import keras

from genre_tf.config import OptimizerConfig
from genre_tf.errors import FailureError, StoppedError
from genre_tf.training.learner import Executed, Learner, Pace
from genre_tf.training.observers import StageBoard, StepTrace
from genre_tf.training.progress import (
    Estimate,
    Goal,
    Progress,
    Report,
    Stopwatch,
    duration,
    memory,
    seconds_of,
    validations_left,
)
from genre_tf.training.stage_files import StageFiles

_HEARD = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether a stop was requested.

    Attributes:
        signal: the first signal received, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGTERM (sent by preemptible machines and Kubernetes) and Ctrl-C; a second signal stops at once.

    Outside the main thread no signal can be caught, and nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[signal.Signals, Any] = {}

    def hear(number: int, _: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        _restore(before)

    before.update({each: signal.signal(each, hear) for each in _HEARD})
    try:
        yield request
    finally:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for each, handler in handlers.items():
        signal.signal(each, handler)


_LOGGED_EVERY = 10
"""Steps from one TensorBoard scalar to the next."""

_WAIT_TO_MENTION = 0.05
"""Share of the step time; below it a faster input would hardly be noticed."""


class Watch:
    """What a training does between its steps: logs, validates, keeps the best weights, saves, stops in time.

    Args:
        trainer: the model and its loss.
        progress: progress of the training so far.
        steps: total number of steps.
        config: `validate_every`, `patience` and `save_every_seconds`.
        goal: how the training is judged.
        files: receives the best weights, the state of the unfinished training, and TensorBoard logs.
        report: takes a line of progress.
        request: whether a stop was requested.
        describe: names the rows of the batch that a step has learned from.
    """

    def __init__(
        self,
        trainer: Learner,
        progress: Progress,
        steps: int,
        config: OptimizerConfig,
        goal: Goal,
        files: StageFiles,
        report: Report,
        request: StopRequest,
        describe: Callable[[int], str],
    ) -> None:
        self.trainer, self.progress, self.steps, self.config, self.goal = (
            trainer,
            progress,
            steps,
            config,
            goal,
        )
        self.files, self.report, self.request, self.describe = files, report, request, describe
        self.board = StageBoard(files.logs, files.stage, files.scalar_log(resumed=progress.step > 0))
        self.trace = StepTrace(files.logs, files.observers.profile)
        self.resumed_with, self.started = progress.seconds, time.monotonic()
        self.saved_at = self.started
        self.whole = Pace(seconds=progress.step_seconds, waited=progress.input_wait_seconds)
        self.since_written = self.since_validated = Pace()
        self.stopwatch, self.announced = Stopwatch(), False

    @property
    def out_of_patience(self) -> bool:
        """Whether the last validations brought no improvement."""
        progress = self.progress
        return progress.waited >= self.config.patience and progress.validated == progress.step

    def record(self, executed: Executed) -> None:
        """Record the losses and the pace of some steps.

        Raises:
            FailureError: a loss is not finite.
        """
        progress, before = self.progress, self.progress.step
        for loss in executed.losses:
            progress.step += 1
            self._check("the loss", loss)
            progress.loss_sum, progress.loss_count = progress.loss_sum + loss, progress.loss_count + 1
        self._note(executed.pace)
        self.trace.after(progress.step)
        if progress.step // _LOGGED_EVERY > before // _LOGGED_EVERY or progress.step == self.steps:
            found = {
                "loss": loss,
                "learning_rate": float(keras.ops.convert_to_numpy(self.trainer.optimizer.learning_rate)),
                "gradient_norm": float(self.trainer.gradient_norm.numpy()),
            }
            self.board.scalars("train", progress.step, {**found, **self.since_written.scalars, **memory()})
            self.since_written = Pace()

    def _check(self, name: str, value: float) -> None:
        step = self.progress.step
        if not math.isfinite(value):
            cause = f"learning from {self.describe(step)}" if step else "before the first step"
            raise FailureError(
                f"{name} became {value} at step {step}, {cause}; lower the learning rate "
                f"({self.config.learning_rate}) or use stronger gradient clipping"
            )

    def _note(self, pace: Pace) -> None:
        self.stopwatch.note(pace)
        self.whole, self.since_written = self.whole + pace, self.since_written + pace
        self.since_validated += pace
        self.progress.step_seconds = self.whole.seconds
        self.progress.input_wait_seconds = self.whole.waited

    def announce(self) -> None:
        """Report once, as soon as enough steps were timed, what the rest of the training will take."""
        over = self.progress.step == self.steps or self.out_of_patience
        if over or self.announced or self.stopwatch.step_seconds is None:
            return
        self.announced = True
        progress = self.progress
        if progress.validated == 0:  # the only validation so far was traced too
            progress.validation_seconds = seconds_of(self.goal.look, progress.validation_seconds)
        self.report(f"{self.files.stage}: {self._rest()}, less if {self.goal.metric} stops improving")

    def _rest(self) -> Estimate:
        """What the rest of the training will take, at the pace so far."""
        return Estimate(
            steps=self.steps - self.progress.step,
            step_seconds=self.stopwatch.rough,
            validations=validations_left(self.steps, self.progress.step, self.config.validate_every),
            validation_seconds=self.progress.validation_seconds,
        )

    def validate(self) -> None:
        """Validate, write scalars, and keep the weights if they are the best.

        Raises:
            FailureError: a metric is not finite.
        """
        progress, began = self.progress, time.monotonic()
        found = dict(self.goal.validate())
        for name, number in found.items():  # a step may damage the weights although its own loss was finite
            self._check(f"validation {name}", number)
        self.board.scalars("validation", progress.step, found)
        self.board.weights(progress.step, self.trainer.model.trainable_weights)
        if self.goal.show is not None:
            self.board.texts(progress.step, self.goal.show())
        progress.validation_seconds = time.monotonic() - began
        value = found[self.goal.metric]
        better = self.goal.better(value, progress.best)
        if progress.validated < 0:
            progress.before = value
        progress.validated = progress.step
        if better:
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
            self.files.save_best(self.trainer.model)
        else:
            progress.waited += 1
        mean = f"loss {progress.loss_sum / progress.loss_count:.4f}  " if progress.loss_count else ""
        progress.loss_sum, progress.loss_count = 0.0, 0
        shown = "  ".join(f"{name} {number:.4f}" for name, number in found.items())
        best = "  (best)" if better else ""
        share, self.since_validated = self.since_validated.input_wait_share, Pace()
        waited = f"  input wait {share:.0%}" if share > _WAIT_TO_MENTION else ""
        self.report(
            f"step {progress.step}/{self.steps}{self._left()}  {mean}validation: {shown}{best}{waited}"
        )
        if self.out_of_patience and 0 < progress.step < self.steps:
            self.report(
                f"stopping early at step {progress.step:,}: {self.goal.metric} has not improved in "
                f"{progress.waited} validations"
            )

    def _left(self) -> str:
        rest = self._rest()
        return f", {duration(rest.seconds)} left" if self.stopwatch.timed.steps and rest.steps else ""

    def seconds(self) -> float:
        """Wall-clock seconds, including those before a resumption."""
        return self.resumed_with + time.monotonic() - self.started

    def save(self) -> None:
        """Save the state of the unfinished training."""
        self.progress.seconds = self.seconds()
        self.files.save_state(self.trainer, self.progress)
        self.saved_at = time.monotonic()

    def save_if_due(self, validated: bool) -> None:
        """Save after a validation, when enough time has passed, or before a requested stop.

        Raises:
            StoppedError: a stop was requested.
        """
        asked = self.request.signal
        waited = time.monotonic() - self.saved_at
        if asked or validated or waited >= self.config.save_every_seconds:
            self.save()
        if asked:
            raise StoppedError(
                f"stopped by {asked.name} after step {self.progress.step} of {self.steps}; the state is "
                "saved and the same command resumes from it",
                128 + asked,
            )

    def close(self) -> None:
        """Close the logs."""
        self.trace.close()
        self.board.close()
