"""What goes on beside the steps of a training: scalars, validation, the best weights, saved states."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from genre_tf.config import OptimizerConfig
from genre_tf.errors import FailureError, StoppedError
from genre_tf.training.progress import Goal, Progress, Report
from genre_tf.training.stage_files import StageFiles
from genre_tf.training.stopping import StopRequest


class Watch(keras.callbacks.Callback):
    """Validates every N steps, keeps the best weights, saves the state, and stops when it is time.

    Args:
        progress: where the training stands.
        steps: to do in all.
        config: `validate_every`, `patience` and `save_every_seconds`.
        goal: what it is judged by.
        files: takes the best weights, the state of the unfinished training, and TensorBoard logs.
        report: takes a line of progress.
        request: whether somebody asked for the end.
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
        self.writers = {
            part: tf.summary.create_file_writer(str(files.logs / part)) for part in ("train", "validation")
        }
        self.resumed_with, self.started = progress.seconds, time.monotonic()
        self.saved_at = self.started

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the loss; validate and save when it is time; stop if asked."""
        progress = self.progress
        progress.step += 1
        step = progress.step
        loss = float(keras.ops.convert_to_numpy(self.model.batch_loss))
        if not math.isfinite(loss):
            raise FailureError(
                f"the loss became {loss} at step {step}, learning from {self.describe(step)}: lower the "
                f"learning rate ({self.config.learning_rate}) or raise the clipping"
            )
        progress.loss_sum, progress.loss_count = progress.loss_sum + loss, progress.loss_count + 1
        if step % 10 == 0 or step == self.steps:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self._write("train", {"loss": loss, "learning_rate": rate})
        due = step % self.config.validate_every == 0 or step == self.steps
        if due:
            self.validate_now(self.model)
            if progress.waited >= self.config.patience:
                self.report(f"no better {self.goal.metric} in {progress.waited} validations: stopping early")
                self.model.stop_training = True
        self._save_if_due(due)

    def validate_now(self, model: Any) -> None:
        """Validate, write scalars, and keep the weights if they are the best."""
        progress = self.progress
        found = dict(self.goal.validate())
        self._write("validation", found)
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
        self.report(f"step {progress.step}/{self.steps}  {mean}validation: {shown}{best}")

    def seconds(self) -> float:
        """Of wall clock, those before a resumption included."""
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
                f"stopped by {asked.name} after step {self.progress.step} of {self.steps}, which is saved: "
                "the same command goes on from there",
                128 + asked,
            )

    def _write(self, part: str, scalars: Mapping[str, float]) -> None:
        with self.writers[part].as_default(step=self.progress.step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self.writers[part].flush()

    def close(self) -> None:
        """Close the logs."""
        for writer in self.writers.values():
            writer.close()
