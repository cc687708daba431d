"""What happens between training steps: scalars, validation, best weights, saved states."""

import math
import time
from collections.abc import Callable
from typing import Any

import keras

from genre_tf.config import OptimizerConfig
from genre_tf.errors import FailureError, StoppedError
from genre_tf.training.board import StageBoard
from genre_tf.training.estimate import Estimate, Stopwatch, duration, seconds_of, validations_left
from genre_tf.training.memory import memory
from genre_tf.training.pace import Pace
from genre_tf.training.progress import Goal, Progress, Report
from genre_tf.training.stage_files import StageFiles
from genre_tf.training.step_trace import StepTrace
from genre_tf.training.stopping import StopRequest

_LOGGED_EVERY = 10
"""Steps from one TensorBoard scalar to the next."""

_WAIT_TO_MENTION = 0.05
"""Share of the step time; below it a faster input would hardly be noticed."""


class Watch(keras.callbacks.Callback):
    """Validates every N steps, keeps the best weights, saves the state, and stops in time.

    What Keras calls a batch is one execution here, of `steps_per_execution` steps, or fewer if a validation
    or the end comes sooner. Saving, logging and a requested stop wait for the end of an execution.

    Args:
        progress: progress of the training so far.
        steps: total number of steps.
        config: `steps_per_execution`, `validate_every`, `patience` and `save_every_seconds`.
        goal: how the training is judged.
        files: receives the best weights, the state of the unfinished training, and TensorBoard logs.
        report: takes a line of progress.
        request: whether a stop was requested.
        describe: names the rows of the batch that a step has learned from.
    """

    def __init__(
        self,
        progress: Progress,
        steps: int,
        config: OptimizerConfig,
        goal: Goal,
        files: StageFiles,
        report: Report,
        request: StopRequest,
        describe: Callable[[int], str],
    ) -> None:
        super().__init__()
        self.progress, self.steps, self.config, self.goal = progress, steps, config, goal
        self.files, self.report, self.request, self.describe = files, report, request, describe
        self.board = StageBoard(files.logs, files.stage, files.scalar_log(resumed=progress.step > 0))
        self.trace = StepTrace(files.logs, files.observers.profile)
        self.resumed_with, self.started = progress.seconds, time.monotonic()
        self.saved_at = self.started
        self.whole = Pace(seconds=progress.step_seconds, waited=progress.input_wait_seconds)
        self.since_written = self.since_validated = Pace()
        self.stopwatch, self.announced = Stopwatch(), False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the number of next steps: at most as many as are left until a validation or the end."""
        step, every = self.progress.step, self.config.validate_every
        left = min(every - step % every, self.steps - step)
        self.model.steps_at_once = min(self.config.steps_per_execution, left)
        self.trace.before(step + 1, step + self.model.steps_at_once)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the losses; validate and save when due; stop if requested."""
        progress, executed, before = self.progress, self.model.executed, self.progress.step
        for loss in executed.losses:
            progress.step += 1
            self._check("the loss", loss)
            progress.loss_sum, progress.loss_count = progress.loss_sum + loss, progress.loss_count + 1
        self._note(executed.pace)
        self.trace.after(progress.step)
        step, ended = progress.step, progress.step == self.steps
        if step // _LOGGED_EVERY > before // _LOGGED_EVERY or ended:
            found = {
                "loss": loss,
                "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
                "gradient_norm": float(self.model.gradient_norm.numpy()),
            }
            self.board.scalars("train", step, {**found, **self.since_written.scalars, **memory()})
            self.since_written = Pace()
        due = step % self.config.validate_every == 0 or ended
        if due:
            self.validate_now(self.model)
            if progress.waited >= self.config.patience and not ended:
                self.report(
                    f"stopping early at step {step:,}: {self.goal.metric} has not improved in "
                    f"{progress.waited} validations"
                )
                self.model.stop_training = True
        if not (ended or self.model.stop_training):
            self._announce()
        self._save_if_due(due)
        if ended:  # Keras counts executions, and there may be fewer of them than steps
            self.model.stop_training = True

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

    def _announce(self) -> None:
        """Report once, as soon as enough steps were timed, what the rest of the training will take."""
        if self.announced or self.stopwatch.step_seconds is None:
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

    def validate_now(self, model: Any) -> None:
        """Validate, write scalars, and keep the weights if they are the best."""
        progress, began = self.progress, time.monotonic()
        found = dict(self.goal.validate())
        for name, number in found.items():  # a step may damage the weights although its own loss was finite
            self._check(f"validation {name}", number)
        self.board.scalars("validation", progress.step, found)
        self.board.weights(progress.step, model.model.trainable_weights)
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
            self.files.save_best(model.model)
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

    def _left(self) -> str:
        rest = self._rest()
        return f", {duration(rest.seconds)} left" if self.stopwatch.timed.steps and rest.steps else ""

    def seconds(self) -> float:
        """Wall-clock seconds, including those before a resumption."""
        return self.resumed_with + time.monotonic() - self.started

    def save(self, model: Any) -> None:
        """Save the state of the unfinished training."""
        self.progress.seconds = self.seconds()
        self.files.save_state(model, self.progress)
        self.saved_at = time.monotonic()

    def _save_if_due(self, validated: bool) -> None:
        asked = self.request.signal
        waited = time.monotonic() - self.saved_at
        if asked or validated or waited >= self.config.save_every_seconds:
            self.save(self.model)
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
