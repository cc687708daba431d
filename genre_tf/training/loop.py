"""Train one stage: the loop over steps, and what happens between them. The best weights are kept."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import keras

from genre_tf.config import OptimizerConfig
from genre_tf.errors import FailureError, StoppedError
from genre_tf.models.text_model import load_own_weights
from genre_tf.training.learner import Learner, Pace
from genre_tf.training.observers import StageBoard, StepTrace, WeightsAndBiases
from genre_tf.training.optimizers import make_optimizer
from genre_tf.training.progress import (
    Estimate,
    FitResult,
    Goal,
    Progress,
    Report,
    Stopwatch,
    duration,
    keep_freed_memory,
    memory,
    peak_memory_gb,
    return_freed_memory,
    seconds_of,
    validations_left,
)
from genre_tf.training.stage_files import StageFiles, check_room, lasting_variables

_LOGGED_EVERY = 10  # steps from one TensorBoard scalar to the next
_WAIT_TO_MENTION = 0.05  # share of the step time; below it a faster input would hardly be noticed


@dataclass(frozen=True, kw_only=True)
class Training:
    """A stage that is ready to be trained.

    One step is one update of the weights by the mean gradient of `config.accumulate` batches. This equals one
    large batch with all their rows, provided that the loss is a mean over rows and the batches have equally
    many rows. It is not equal if the loss is a mean over the contents of rows (shown articles, weighted
    tokens) and the batches hold different amounts, nor for the last, smaller batch of an epoch. In retrieval,
    a row finds its negatives in its own batch only, so they are N times fewer than in one large batch.

    Args:
        trainer: the model and its loss; compiled by `fit`.
        batches_from: endless batches starting at a step; the same at each call.
        steps: maximum number of steps.
        config: optimizer settings, with `validate_every` as a number of steps.
        goal: how the training is judged.
        jit_compile: whether XLA compiles the step.
        name_rows: (number of a batch, count) -> its rows by name; None: batches have a column `impression`.
        start: gives a new model weights measured on the log; an earlier run's weights already contain them.
        finish: fits what steps do not train, after the last one; the best weights then include it.
        finish_seconds: how long that will take; only asked in a rehearsal.
    """

    trainer: Learner
    batches_from: Callable[[int], Any]
    steps: int
    config: OptimizerConfig
    goal: Goal
    jit_compile: bool = False
    name_rows: Callable[[int, int], str] | None = None
    start: Callable[[], None] | None = None
    finish: Callable[[], None] | None = None
    finish_seconds: Callable[[], float] = lambda: 0.0

    def fit(self, files: StageFiles, report: Report) -> FitResult:
        """Train, starting from the weights of an earlier run if `files` names one; keep the best weights.

        The best weights end up both in the model and in the files. An interrupted training, even one ended by
        SIGKILL, resumes with the same weights, the same random states and the same batches.

        Args:
            files: files of the stage.
            report: takes a line of progress.

        Raises:
            FailureError: the loss or a metric became infinite or NaN, or a file cannot be written.
            InputError: the disk has no room for the files.
            StoppedError: SIGTERM or Ctrl-C; the state was saved.
        """
        if self.start is not None and not files.start:
            self.start()
        model, goal = self.trainer.model, self.goal
        files.folder.mkdir(parents=True, exist_ok=True)
        self._prepare()
        check_room(files.folder, lasting_variables(self.trainer))
        progress = files.resume(self.trainer)
        if progress is not None:
            report(f"resuming after step {progress.step} of {self.steps}")
        elif files.start_weights is not None:
            load_own_weights(model, files.start_weights)
        with stop_request() as stops:
            watch = Watch(self, progress or Progress(), files, report, stops)
            try:
                self._run(watch)
            finally:
                watch.trace.close()
                watch.board.close()
        found: dict[str, Any] = {}
        if files.start_weights is not None and goal.validate_older is not None:
            for name, weights in (("older_before", files.start_weights), ("older_after", files.weights)):
                load_own_weights(model, weights)
                found[name] = float(goal.validate_older()[goal.metric])
        load_own_weights(model, files.weights)
        done = watch.progress
        kept = (
            f"the weights of step {done.best_step:,} are kept, with the best {goal.metric}: {done.best:.4f}"
        )
        if done.best_step == 0:
            kept = (
                f"no step improved {goal.metric} ({done.best:.4f}); the weights from before training are kept"
            )
        report(kept)
        if goal.judge is not None:
            found["quality"] = tuple(goal.judge())
        seconds = watch.seconds()
        return_freed_memory()
        if self.finish is not None:
            self.finish()
            files.save_best(model)
        return FitResult(
            metric=goal.metric,
            before=done.before,
            best=done.best,
            best_step=done.best_step,
            steps=done.step,
            stopped_early=done.step < self.steps,
            seconds=round(seconds, 1),
            steps_per_second=round(done.step / seconds, 2),
            input_wait_share=round(watch.whole.input_wait_share, 3),
            peak_memory_gb=round(peak_memory_gb(), 2),
            trainable_parameters=sum(math.prod(weight.shape) for weight in model.trainable_weights),
            **found,
        )

    def _prepare(self) -> None:
        with self.trainer.strategy.scope():
            self.trainer.prepare(
                make_optimizer(self.config, self.steps, self.trainer.model.trainable_weights),
                self.jit_compile,
                accumulate=self.config.accumulate,
                most_steps=min(self.config.steps_per_execution, self.config.validate_every),
                steps=self.steps,
            )

    def _run(self, watch: "Watch") -> None:
        """The loop: learn, record, validate, save; until the last step, a stop, or patience runs out."""
        progress, config = watch.progress, self.config
        if progress.validated < 0:
            watch.validate()
        batches: Any = None
        while progress.step < self.steps and not watch.out_of_patience:
            if batches is None:
                keep_freed_memory()
                batches = iter(self.batches_from(progress.step))
            until_validation = config.validate_every - progress.step % config.validate_every
            at_once = min(config.steps_per_execution, until_validation, self.steps - progress.step)
            watch.trace.before(progress.step + 1, progress.step + at_once)
            watch.record(*self.trainer.run(batches, at_once))
            due = progress.step % config.validate_every == 0 or progress.step == self.steps
            if due:
                watch.validate()
            watch.announce()
            watch.save_if_due(due)  # also ends the training if a signal asked for it

    def rehearse(self, began: float) -> Estimate:
        """Time some steps and a validation; the model is of no further use.

        Args:
            began: `time.monotonic` before this was built, which takes as long again for the training itself.
        """
        self._prepare()
        keep_freed_memory()
        at_once = min(self.config.steps_per_execution, self.config.validate_every, self.steps)
        stopwatch, batches, done = Stopwatch(), iter(self.batches_from(0)), 0
        while stopwatch.step_seconds is None and done < self.steps:
            _, pace = self.trainer.run(batches, min(at_once, self.steps - done))
            stopwatch.note(pace)
            done += pace.steps
        validation_seconds = seconds_of(self.goal.look)
        timed_seconds = stopwatch.timed.seconds + 2 * validation_seconds
        other_seconds = max(0.0, time.monotonic() - began - timed_seconds)
        return Estimate(
            steps=self.steps,
            step_seconds=stopwatch.rough,
            validations=1 + validations_left(self.steps, 0, self.config.validate_every),
            validation_seconds=validation_seconds,
            other_seconds=other_seconds + self.finish_seconds(),
        )

    def rows_of(self, step: int) -> str:
        """Names the rows that a step has learned from; without `name_rows` its batches are rebuilt."""
        accumulate = self.config.accumulate
        if self.name_rows is not None:
            return self.name_rows((step - 1) * accumulate, accumulate)
        rows: list[int] = []
        for batch in islice(self.batches_from(step - 1), accumulate):
            if "impression" not in batch:
                return "a batch without row numbers"
            found = batch["impression"]
            for values in getattr(found, "values", (found,)):  # of one or of several replicas
                rows += values.numpy().tolist()
        return "impressions " + ", ".join(map(str, rows))


@contextmanager
def stop_request() -> Iterator[list[signal.Signals]]:
    """Catch SIGTERM (sent by preemptible machines and Kubernetes) and Ctrl-C; a second signal stops at once.

    The list is empty until the first one is received. Outside the main thread none can be caught.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    def hear(number: int, _: Any) -> None:
        received.append(signal.Signals(number))
        restore()

    before.update({each: signal.signal(each, hear) for each in (signal.SIGTERM, signal.SIGINT)})
    try:
        yield received
    finally:
        restore()


class Watch:
    """What a training does between its steps: logs, validates, keeps the best weights, saves, stops in time.

    Args:
        training: the training.
        progress: its progress so far.
        files: receives the best weights, the state of the unfinished training, and TensorBoard logs.
        report: takes a line of progress.
        stops: signals received.
    """

    def __init__(
        self,
        training: Training,
        progress: Progress,
        files: StageFiles,
        report: Report,
        stops: list[signal.Signals],
    ) -> None:
        self.training, self.progress, self.files, self.report = training, progress, files, report
        self.trainer, self.steps, self.config = training.trainer, training.steps, training.config
        self.goal, self.stops = training.goal, stops
        project, beside = files.observers.wandb, None
        if project is not None:
            beside = WeightsAndBiases(project, files.run, files.stage, resumed=progress.step > 0)
        self.board = StageBoard(files.logs, files.stage, beside)
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

    def record(self, losses: list[float], pace: Pace) -> None:
        """Record the losses and the pace of some steps; a `FailureError` if a loss is not finite."""
        progress, before = self.progress, self.progress.step
        for loss in losses:
            progress.step += 1
            self._check("the loss", loss)
            progress.loss_sum, progress.loss_count = progress.loss_sum + loss, progress.loss_count + 1
        self.stopwatch.note(pace)
        self.whole, self.since_written = self.whole + pace, self.since_written + pace
        self.since_validated += pace
        progress.step_seconds, progress.input_wait_seconds = self.whole.seconds, self.whole.waited
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
            cause = f"learning from {self.training.rows_of(step)}" if step else "before the first step"
            raise FailureError(
                f"{name} became {value} at step {step}, {cause}; lower the learning rate "
                f"({self.config.learning_rate}) or use stronger gradient clipping"
            )

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
        progress, goal, began = self.progress, self.goal, time.monotonic()
        found = dict(goal.validate())
        for name, number in found.items():  # a step may damage the weights although its own loss was finite
            self._check(f"validation {name}", number)
        self.board.scalars("validation", progress.step, found)
        self.board.weights(progress.step, self.trainer.model.trainable_weights)
        if goal.show is not None:
            self.board.texts(progress.step, goal.show())
        progress.validation_seconds = time.monotonic() - began
        value = found[goal.metric]
        better = goal.better(value, progress.best)
        if progress.validated < 0:
            progress.before = value
        progress.validated = progress.step
        if better:
            progress.best, progress.best_step, progress.waited = value, progress.step, 0
            self.files.save_best(self.trainer.model)
        else:
            progress.waited += 1
        rest = self._rest()
        left = f", {duration(rest.seconds)} left" if self.stopwatch.timed.steps and rest.steps else ""
        mean = f"loss {progress.loss_sum / progress.loss_count:.4f}  " if progress.loss_count else ""
        progress.loss_sum, progress.loss_count = 0.0, 0
        shown = "  ".join(f"{name} {number:.4f}" for name, number in found.items())
        best = "  (best)" if better else ""
        share, self.since_validated = self.since_validated.input_wait_share, Pace()
        waited = f"  input wait {share:.0%}" if share > _WAIT_TO_MENTION else ""
        self.report(f"step {progress.step}/{self.steps}{left}  {mean}validation: {shown}{best}{waited}")
        if self.out_of_patience and 0 < progress.step < self.steps:
            self.report(
                f"stopping early at step {progress.step:,}: {goal.metric} has not improved in "
                f"{progress.waited} validations"
            )

    def seconds(self) -> float:
        """Wall-clock seconds, including those before a resumption."""
        return self.resumed_with + time.monotonic() - self.started

    def save_if_due(self, validated: bool) -> None:
        """Save after a validation, when enough time has passed, or before a requested stop.

        Raises:
            StoppedError: a stop was requested.
        """
        if self.stops or validated or time.monotonic() - self.saved_at >= self.config.save_every_seconds:
            self.progress.seconds = self.seconds()
            self.files.save_state(self.trainer, self.progress)
            self.saved_at = time.monotonic()
        if self.stops:
            raise StoppedError(
                f"stopped by {self.stops[0].name} after step {self.progress.step} of {self.steps}; the state "
                "is saved and the same command resumes from it",
                128 + self.stops[0],
            )
