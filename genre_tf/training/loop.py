"""Train one stage: the loop over steps, with validation every N steps; the best weights are kept."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import keras

from genre_tf.config import OptimizerConfig
from genre_tf.errors import InputError
from genre_tf.models.text_model import load_own_weights
from genre_tf.training.learner import Learner
from genre_tf.training.optimizers import make_optimizer
from genre_tf.training.progress import (
    Estimate,
    FitResult,
    Goal,
    Progress,
    Report,
    Stopwatch,
    keep_freed_memory,
    peak_memory_gb,
    seconds_of,
    validations_left,
)
from genre_tf.training.stage_files import StageFiles, check_room, lasting_variables
from genre_tf.training.watch import Watch, stop_request


@dataclass(frozen=True, kw_only=True)
class Training:
    """A stage that is ready to be trained: what `fit` takes, whose arguments these are.

    Attributes:
        trainer: the model and its loss.
        batches_from: endless batches starting at a step.
        steps: maximum number of steps.
        config: optimizer settings, with `validate_every` as a number of steps.
        goal: how the training is judged.
        jit_compile: whether XLA compiles the step.
        name_rows: names the rows of batches.
    """

    trainer: Learner
    batches_from: Callable[[int], Any]
    steps: int
    config: OptimizerConfig
    goal: Goal
    jit_compile: bool = False
    name_rows: Callable[[int, int], str] | None = None

    def fit(self, files: StageFiles, report: Report) -> FitResult:
        """Train, as `fit` does."""
        return fit(**vars(self), files=files, report=report)

    def rehearse(self, began: float) -> Estimate:
        """Time some steps and a validation; the model is of no further use.

        Args:
            began: `time.monotonic` before this was built, which takes as long again for the training itself.
        """
        _prepare(self.trainer, self.steps, self.config, self.jit_compile)
        keep_freed_memory()
        at_once = min(self.config.steps_per_execution, self.config.validate_every, self.steps)
        stopwatch, batches, done = Stopwatch(), iter(self.batches_from(0)), 0
        while stopwatch.step_seconds is None and done < self.steps:
            executed = self.trainer.run(batches, min(at_once, self.steps - done))
            stopwatch.note(executed.pace)
            done += executed.pace.steps
        validation_seconds = seconds_of(self.goal.look)
        timed_seconds = stopwatch.timed.seconds + 2 * validation_seconds
        return Estimate(
            steps=self.steps,
            step_seconds=stopwatch.rough,
            validations=1 + validations_left(self.steps, 0, self.config.validate_every),
            validation_seconds=validation_seconds,
            other_seconds=max(0.0, time.monotonic() - began - timed_seconds),
        )


def fit(
    trainer: Learner,
    batches_from: Callable[[int], Any],
    steps: int,
    config: OptimizerConfig,
    goal: Goal,
    files: StageFiles,
    report: Report,
    *,
    jit_compile: bool = False,
    name_rows: Callable[[int, int], str] | None = None,
) -> FitResult:
    """Train a stage, starting from the weights of an earlier run if `files` names one; keep the best weights.

    The best weights end up both in the model and in the files. An interrupted training, even one ended by
    SIGKILL, resumes with the same weights, the same random states and the same batches.

    One step is one update of the weights by the mean gradient of `config.accumulate` batches. This equals one
    large batch with all their rows, provided that the loss is a mean over rows and the batches have equally
    many rows. It is not equal if the loss is a mean over the contents of rows (shown articles, weighted
    tokens) and the batches hold different amounts, nor for the last, smaller batch of an epoch. In retrieval,
    a row finds its negatives in its own batch only, so they are N times fewer than in one large batch.

    Args:
        trainer: the model and its loss; compiled here.
        batches_from: endless batches starting at a step; the same at each call.
        steps: maximum number of steps.
        config: `accumulate`, `steps_per_execution`, `validate_every` (in steps), `patience` and how often to
            save.
        goal: how the training is judged.
        files: files of the stage.
        report: takes a line of progress.
        jit_compile: whether XLA compiles the step.
        name_rows: (number of a batch, count) -> its rows by name; None: batches have a column `impression`.

    Raises:
        FailureError: the loss or a metric became infinite or NaN, or a file cannot be written.
        InputError: the disk has no room for the files.
        StoppedError: SIGTERM or Ctrl-C; the state was saved.
    """
    files.folder.mkdir(parents=True, exist_ok=True)
    _prepare(trainer, steps, config, jit_compile)
    check_room(files.folder, lasting_variables(trainer))
    progress = _begin(trainer, files, steps, report)
    with stop_request() as request:
        describe = _describer(batches_from, config.accumulate, name_rows)
        watch = Watch(trainer, progress, steps, config, goal, files, report, request, describe)
        try:
            _run(trainer, batches_from, watch)
        finally:
            watch.close()
    found: dict[str, Any] = _on_older(trainer.model, goal, files)
    load_weights(trainer.model, files.weights)
    report(_kept(progress, goal.metric))
    if goal.judge is not None:
        found["quality"] = tuple(goal.judge())
    return _result(watch, sum(math.prod(weight.shape) for weight in trainer.model.trainable_weights), found)


def _prepare(trainer: Learner, steps: int, config: OptimizerConfig, jit_compile: bool) -> None:
    with trainer.strategy.scope():
        trainer.prepare(
            make_optimizer(config, steps, trainer.model.trainable_weights),
            jit_compile,
            accumulate=config.accumulate,
            most_steps=min(config.steps_per_execution, config.validate_every),
        )


def _kept(progress: Progress, metric: str) -> str:
    if progress.best_step == 0:
        return f"no step improved {metric} ({progress.best:.4f}); the weights from before training are kept"
    return f"the weights of step {progress.best_step:,} are kept, with the best {metric}: {progress.best:.4f}"


def _result(watch: Watch, trainable_parameters: int, found: dict[str, Any]) -> FitResult:
    done, seconds = watch.progress, watch.seconds()
    return FitResult(
        metric=watch.goal.metric,
        before=done.before,
        best=done.best,
        best_step=done.best_step,
        steps=done.step,
        stopped_early=done.step < watch.steps,
        seconds=round(seconds, 1),
        steps_per_second=round(done.step / seconds, 2),
        input_wait_share=round(watch.whole.input_wait_share, 3),
        peak_memory_gb=round(peak_memory_gb(), 2),
        trainable_parameters=trainable_parameters,
        **found,
    )


def _begin(trainer: Learner, files: StageFiles, steps: int, report: Report) -> Progress:
    """The progress of an unfinished training; else load the initial weights and return new progress."""
    progress = files.resume(trainer)
    if progress is not None:
        report(f"resuming after step {progress.step} of {steps}")
        return progress
    if files.start_weights is not None:
        load_weights(trainer.model, files.start_weights)
    return Progress()


def load_weights(model: keras.Model, file: Path) -> None:
    """Load a model's weights.

    Raises:
        InputError: they do not belong to such a model.
    """
    try:
        load_own_weights(model, file)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{file} does not fit these settings ({str(error).splitlines()[0]}); train from the beginning"
        ) from None


def _on_older(model: keras.Model, goal: Goal, files: StageFiles) -> dict[str, float]:
    """Metric of the initial and of the best weights on the examples that the earlier run held out."""
    if files.start_weights is None or goal.validate_older is None:
        return {}
    found = {}
    for name, weights in (("older_before", files.start_weights), ("older_after", files.weights)):
        load_weights(model, weights)
        found[name] = float(goal.validate_older()[goal.metric])
    return found


def _run(trainer: Learner, batches_from: Callable[[int], Any], watch: Watch) -> None:
    """The loop: learn, record, validate, save; until the last step, a stop, or patience runs out."""
    progress, config, steps = watch.progress, watch.config, watch.steps
    if progress.validated < 0:
        watch.validate()
    batches: Any = None
    while progress.step < steps and not watch.out_of_patience:
        if batches is None:
            keep_freed_memory()
            batches = iter(batches_from(progress.step))
        until_validation = config.validate_every - progress.step % config.validate_every
        at_once = min(config.steps_per_execution, until_validation, steps - progress.step)
        watch.trace.before(progress.step + 1, progress.step + at_once)
        watch.record(trainer.run(batches, at_once))
        due = progress.step % config.validate_every == 0 or progress.step == steps
        if due:
            watch.validate()
        watch.announce()
        watch.save_if_due(due)  # also ends the training if a signal asked for it


def _describer(
    batches_from: Callable[[int], Any], accumulate: int, name_rows: Callable[[int, int], str] | None
) -> Callable[[int], str]:
    """Names the rows that a step has learned from; if the batch does not say, its batches are rebuilt."""

    def describe(step: int) -> str:
        if name_rows is not None:
            return name_rows((step - 1) * accumulate, accumulate)
        rows: list[int] = []
        for batch in islice(batches_from(step - 1), accumulate):
            if "impression" not in batch:
                return "a batch without row numbers"
            found = batch["impression"]
            for values in getattr(found, "values", (found,)):  # of one or of several replicas
                rows += values.numpy().tolist()
        return "impressions " + ", ".join(map(str, rows))

    return describe
