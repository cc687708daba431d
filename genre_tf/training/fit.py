"""One training of one stage: Keras' own `fit`, with validation every N steps, the best weights kept."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from genre_tf.config import OptimizerConfig
from genre_tf.errors import FailureError
from genre_tf.training.optimizers import make_optimizer

Report = Callable[[str], None]


class StageTrainer(keras.Model):
    """A stage's model with its loss, for `fit`: called with a batch it gives the loss.

    Args:
        model: what is trained; its weights are what is saved.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name="trainer")
        self.model = model
        self.batch_loss = self.add_weight(name="batch_loss", initializer="zeros", trainable=False)
        self.built = True

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Mean loss of a batch, float32 []."""
        raise NotImplementedError

    def call(self, batch: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Mean loss of a batch, float32 []."""
        return self.loss_of(batch, bool(training))

    def compute_loss(self, x: Any, y: Any, y_pred: Any, *_: Any, **__: Any) -> tf.Tensor:
        """What Keras minimises: the loss that `call` gave, kept for the progress of each step."""
        loss = tf.add_n([y_pred, *self.losses])  # with the regularizers'
        self.batch_loss.assign(loss)
        return loss


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Attributes:
        metric: name of the validation metric.
        before: its value before the first step.
        best: its best value, whose weights were kept.
        best_step: when; 0 if no step made it better.
        steps: done.
        stopped_early: whether patience ran out.
        seconds: of wall clock.
        steps_per_second: over the whole training, validations included.
        trainable_parameters: number of trained values.
    """

    metric: str
    before: float
    best: float
    best_step: int
    steps: int
    stopped_early: bool
    seconds: float
    steps_per_second: float
    trainable_parameters: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a report."""
        return asdict(self)


def fit(
    trainer: StageTrainer,
    batches: tf.data.Dataset,
    steps: int,
    config: OptimizerConfig,
    validate: Callable[[], Mapping[str, float]],
    *,
    metric: str,
    greater_is_better: bool,
    weights_file: Path,
    logs: Path,
    report: Report,
) -> FitResult:
    """Train a stage and leave its best weights both in its model and in a file.

    Args:
        trainer: the model and its loss; compiled here.
        batches: without end.
        steps: to do at most.
        config: `validate_every` and `patience`.
        validate: computes validation metrics, by name.
        metric: the one that decides which weights are best.
        greater_is_better: its direction.
        weights_file: `*.weights.h5` of the best.
        logs: folder of the TensorBoard logs; `train` and `validation` below it.
        report: takes a line of progress.

    Raises:
        FailureError: the loss became infinite or no number.
    """
    watch = _Watch(steps, config, validate, metric, greater_is_better, weights_file, logs, report)
    trainable = trainer.model.trainable_weights
    trainer.compile(optimizer=make_optimizer(config, steps, trainable), jit_compile=False)
    started = time.monotonic()
    watch.validate_now(trainer, 0)
    before = watch.best
    trainer.fit(batches, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False, callbacks=[watch])
    if watch.last_validated != watch.step:
        watch.validate_now(trainer, watch.step)
    trainer.model.load_weights(weights_file)
    seconds = time.monotonic() - started
    return FitResult(
        metric=metric,
        before=before,
        best=watch.best,
        best_step=watch.best_step,
        steps=watch.step,
        stopped_early=watch.step < steps,
        seconds=round(seconds, 1),
        steps_per_second=round(watch.step / seconds, 2),
        trainable_parameters=sum(math.prod(weight.shape) for weight in trainable),
    )


class _Watch(keras.callbacks.Callback):
    """Scalars, validation every N steps, best weights, early stopping."""

    def __init__(
        self,
        steps: int,
        config: OptimizerConfig,
        validate: Callable[[], Mapping[str, float]],
        metric: str,
        greater_is_better: bool,
        weights_file: Path,
        logs: Path,
        report: Report,
    ) -> None:
        super().__init__()
        self.steps, self.config, self.validate = steps, config, validate
        self.metric, self.sign = metric, 1.0 if greater_is_better else -1.0
        self.weights_file, self.report = weights_file, report
        self.writers = {
            part: tf.summary.create_file_writer(str(logs / part)) for part in ("train", "validation")
        }
        self.step = self.best_step = 0
        self.last_validated = -1
        self.best, self.waited = -self.sign * math.inf, 0
        self.loss_sum, self.loss_count = 0.0, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the loss; validate when it is time."""
        self.step += 1
        loss = float(self.model.batch_loss)
        if not math.isfinite(loss):
            raise FailureError(
                f"the loss became {loss} at step {self.step}: lower the learning rate "
                f"({self.config.learning_rate}) or raise the clipping"
            )
        self.loss_sum, self.loss_count = self.loss_sum + loss, self.loss_count + 1
        if self.step % 10 == 0 or self.step == self.steps:
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self._write("train", {"loss": loss, "learning_rate": rate}, self.step)
        if self.step % self.config.validate_every == 0 or self.step == self.steps:
            self.validate_now(self.model, self.step)
            if self.waited >= self.config.patience:
                self.report(f"no better {self.metric} in {self.waited} validations: stopping early")
                self.model.stop_training = True

    def validate_now(self, model: StageTrainer, step: int) -> None:
        """Validate, write scalars, and keep the weights if they are the best."""
        found = dict(self.validate())
        self.last_validated = step
        self._write("validation", found, step)
        value = found[self.metric]
        better = self.sign * value > self.sign * self.best
        if better:
            self.best, self.best_step, self.waited = value, step, 0
            model.model.save_weights(self.weights_file)
        else:
            self.waited += 1
        mean = f"loss {self.loss_sum / self.loss_count:.4f}  " if self.loss_count else ""
        self.loss_sum, self.loss_count = 0.0, 0
        shown = "  ".join(f"{name} {number:.4f}" for name, number in found.items())
        self.report(f"step {step}/{self.steps}  {mean}validation: {shown}{'  (best)' if better else ''}")

    def _write(self, part: str, scalars: Mapping[str, float], step: int) -> None:
        with self.writers[part].as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self.writers[part].flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the logs."""
        for writer in self.writers.values():
            writer.flush()
