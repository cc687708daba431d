"""One step of a training: the batches, the loss, the gradients and the update, on one or several devices.

Keras' own `fit` is not used here. It sees the result of a step only (a stop must save between steps, and the
schedule counts updates of several batches), its gradient accumulation fails with several replicas, and its
train function fails under MultiWorkerMirroredStrategy (`tests/training/test_distribution.py` tells when it no
longer does).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from genre_tf.losses.replicas import replica_count, sum_over_replicas
from genre_tf.training.rank_budget import RankBudget

Found = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Loss, rows, seconds spent waiting."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The pace of some steps; paces can be added.

    `seconds` is wall-clock time from the call of the compiled function until its losses were available: the
    first call includes tracing; validation and saving are not included. For `waited` of these seconds a step
    waited for its batch.
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


class Learner:
    """A model, its loss and the compiled steps that lower it; made in the scope of a strategy.

    With several replicas, each returns its share of the loss: what its rows add to the mean over the rows of
    all. The gradients of the shares add up to the gradient of the mean; they are summed *before* clipping.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.strategy: Any = tf.distribute.get_strategy()
        self.optimizer: Any = None
        self.rank_budget: RankBudget | None = None
        self.gradient_norm: Any = None
        """Gradient norm of the last step before clipping: a float32 [] variable, once prepared."""

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Mean loss of a batch, float32 []."""
        raise NotImplementedError

    def __call__(self, batch: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Mean loss of a batch, float32 []."""
        return self.loss_of(batch, training)

    def examples_in(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Number of rows in this replica's batch (in `labels`), float32 []; 0 if it has none."""
        if "labels" not in batch:
            return tf.zeros([])
        return tf.cast(tf.shape(batch["labels"])[0], tf.float32)

    def prepare(
        self,
        optimizer: keras.optimizers.Optimizer,
        jit_compile: bool = False,
        *,
        accumulate: int = 1,
        most_steps: int = 1,
        steps: int = 1,
    ) -> None:
        """Get ready for `run`; in the scope of the strategy, in which the optimizer was created too.

        A step applies the mean gradient of `accumulate` batches; `run` executes at most `most_steps` at once
        of the training's `steps`.
        """
        # Keras clips each replica's gradient and then adds them, so that N replicas could take N times the
        # step of one; with loss scaling, it checks only the first replica for finite gradients. Ours are
        # summed already. Inside a loss scaler is another optimizer.
        inner: Any = getattr(optimizer, "inner_optimizer", optimizer)
        inner._all_reduce_sum_gradients = lambda pairs: pairs
        # It gets its variables now, because none can be created inside a step.
        optimizer.build(self.model.trainable_variables)
        self.optimizer, self.accumulate = optimizer, accumulate
        self.rank_budget = RankBudget.of(self.model, steps)
        # Neither is saved: the norm is for the logs only, and the sums are empty between steps.
        self.gradient_norm = tf.Variable(
            0.0,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.gradient_sums = [
            tf.Variable(tf.zeros(weight.shape), False, synchronization=tf.VariableSynchronization.ON_READ)
            for weight in (self.model.trainable_weights if accumulate > 1 else ())
        ]
        self._run = self._compiled(jit_compile, most_steps)

    def run(self, batches: Any, steps: int) -> tuple[list[float], Pace]:
        """Learn from the next batches of an iterator; at most `most_steps` steps. Returns their losses."""
        began = time.perf_counter()
        losses, examples, waited = self._run(batches, tf.constant(steps))
        of_steps: list[float] = losses.numpy()[:steps].tolist()  # waits for the result
        seconds = time.perf_counter() - began
        return of_steps, Pace(steps=steps, examples=float(examples), seconds=seconds, waited=float(waited))

    def learn(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """One step of one replica; returns loss and rows over all replicas, float32 [] each."""
        found, gradients = self._gradients(batch)
        self._apply(gradients)
        return found

    def _add(self, batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        found, gradients = self._gradients(batch)
        for total, gradient in zip(self.gradient_sums, gradients, strict=True):
            if gradient is not None:
                total.assign_add(tf.convert_to_tensor(gradient))
        return found

    def _update(self) -> None:
        self._apply([total.read_value() / self.accumulate for total in self.gradient_sums])
        for total in self.gradient_sums:
            total.assign(tf.zeros(total.shape))

    def _gradients(self, batch: dict[str, tf.Tensor]) -> tuple[tuple[tf.Tensor, tf.Tensor], list[Any]]:
        weights = self.model.trainable_weights
        with tf.GradientTape() as tape:
            loss = self.loss_of(batch, True)
            loss = tf.add_n([loss, *(each / replica_count() for each in self.model.losses)])  # regularizers
            scaled = self.optimizer.scale_loss(loss)  # if gradients pass through float16; else unchanged
        loss, examples = sum_over_replicas([loss, self.examples_in(batch)])
        return (loss, examples), tape.gradient(scaled, weights)

    def _apply(self, gradients: list[Any]) -> None:
        # Dense, because Keras computes the norm of a sparse gradient row by row; one embedding may have
        # several rows, and more of them with fewer replicas.
        dense = [tf.convert_to_tensor(each) for each in gradients if each is not None]
        summed = sum_over_replicas(dense)
        self.gradient_norm.assign(tf.linalg.global_norm(summed) / self.optimizer.scale_loss(tf.ones([])))
        added = iter(summed)
        gradients = [None if each is None else next(added) for each in gradients]
        weights = self.model.trainable_weights
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        if self.rank_budget is not None:
            self.rank_budget.after_step(dict(zip(map(id, weights), gradients, strict=True)))

    def _compiled(self, jit_compile: bool, most_steps: int) -> Callable[[Any, tf.Tensor], Found]:
        """(iterator, int32 [] number of steps) -> losses float32 [most_steps], rows, seconds of waiting.

        Waiting is measured inside the graph, by the clock before and after a batch is drawn. In a call of
        several steps the host of a GPU or TPU may run ahead of the device; a wait of the host is then not yet
        a wait of the device, so the time is an upper bound.
        """

        def compiled(step: Any) -> Any:
            return tf.function(step, jit_compile=True, autograph=False) if jit_compile else step

        learn, add, update = map(compiled, (self.learn, self._add, self._update))

        def one_batch(iterator: Any, step: Callable[..., Any]) -> Found:
            before = tf.timestamp()
            with tf.control_dependencies([before]):
                batch = iterator.get_next()  # in here, with the shapes of all batches, not of the next one
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited = tf.timestamp() - before

            def on_replica(batch: Any, clock: tf.Tensor) -> Any:
                # Otherwise work on the batch could start before the clock is read and would count as waiting.
                with tf.control_dependencies([clock]):
                    batch = tf.nest.map_structure(tf.identity, batch, expand_composites=True)
                return step(batch)

            found = self.strategy.run(on_replica, args=(batch, tf.cast(waited, tf.float32)))
            loss, examples = (self.strategy.experimental_local_results(each)[0] for each in found)
            return loss, examples, waited

        def one_step(iterator: Any) -> Found:
            if self.accumulate == 1:
                return one_batch(iterator, learn)
            losses, examples, waited = in_turn(
                lambda: one_batch(iterator, add), tf.constant(self.accumulate), self.accumulate
            )
            self.strategy.run(update)
            return tf.reduce_mean(losses), examples, waited

        @tf.function(reduce_retracing=True, autograph=False)
        def steps(iterator: Any, count: tf.Tensor) -> Found:
            return in_turn(lambda: one_step(iterator), count, most_steps)

        return steps  # type: ignore[no-any-return]


def in_turn(one: Callable[[], Found], times: tf.Tensor, most: int) -> Found:
    """Run a step `times` times (int32 [], at most `most`), each after the previous one has ended.

    Returns losses float32 [most], zeros beyond `times`, total rows and total seconds.
    """
    if most == 1:  # avoids the loop
        loss, examples, waited = one()
        return loss[tf.newaxis], examples, waited

    def body(place: tf.Tensor, losses: tf.Tensor, examples: tf.Tensor, waited: tf.Tensor) -> tuple[Any, ...]:
        loss, more, longer = one()
        losses = tf.where(tf.range(most) == place, loss, losses)  # a NaN stays in its own place
        return place + 1, losses, examples + more, waited + longer

    start = (tf.constant(0), tf.zeros([most]), tf.zeros([]), tf.zeros([], tf.float64))
    done: tuple[Any, ...] = tf.while_loop(lambda place, *_: place < times, body, start, parallel_iterations=1)
    return done[1], done[2], done[3]
