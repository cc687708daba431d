"""Losses, gradients and Keras' `fit` over several replicas, with the results of a single replica."""

import time
from typing import Any

import keras
import tensorflow as tf

from genre_tf.losses.replicas import sum_over_replicas
from genre_tf.training.pace import Executed, Pace
from genre_tf.training.steps import compiled_steps


class ReplicatedModel(keras.Model):
    """A Keras model whose `fit` works under every strategy; its losses are shares of one global mean.

    `call` returns this replica's share of the loss: what its rows add to the mean over the rows of all
    replicas. The gradients of the shares add up to the gradient of the mean; they are summed *before*
    clipping.

    Keras 3.15's own training function fails under MultiWorkerMirroredStrategy: in `_maybe_symbolic_build`,
    which averages a batch over replicas (even strings of different shapes), and in `reduce_per_replica`,
    which reduces scalar logs over axis 0. Both are replaced here; `tests/training/test_distribution.py` fails
    when Keras no longer needs this.
    """

    train_function: Any
    accumulate: int = 1
    most_steps: int = 1
    steps_at_once: int = 1
    """Number of steps in the next call of the train function; at most `most_steps`."""
    executed: Executed
    """The result of the last call."""
    gradient_norm: Any = None
    """Gradient norm of the last step before clipping: a float32 [] variable, or None until compiled."""

    def compile_replicated(
        self,
        optimizer: keras.optimizers.Optimizer,
        jit_compile: bool,
        *,
        accumulate: int = 1,
        most_steps: int = 1,
    ) -> None:
        """Like `compile`; call it in the scope of the strategy.

        Args:
            optimizer: created in that scope; gets its variables now, because none can be created inside a
                step.
            jit_compile: whether XLA compiles the step.
            accumulate: number of batches per step; the step applies the mean of their gradients.
            most_steps: maximum number of steps in one call of the train function.
        """
        take_added_gradients(optimizer)
        optimizer.build(self.trainable_variables)
        self.accumulate, self.most_steps = accumulate, most_steps
        # For the logs only, so it is not a Keras variable.
        self.gradient_norm = tf.Variable(
            0.0,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        if accumulate > 1:  # empty between steps, so it need not be saved and is not a Keras variable
            self.gradient_sums = [
                tf.Variable(tf.zeros(weight.shape), False, synchronization=tf.VariableSynchronization.ON_READ)
                for weight in self.trainable_weights
            ]
        self.compile(optimizer=optimizer, jit_compile=jit_compile)

    def _maybe_symbolic_build(self, *_: Any, **__: Any) -> None:
        """Do nothing: layers are built when they are created, and a symbolic build would consume a batch."""

    def make_train_function(self, force: bool = False) -> Any:
        """Run `steps_at_once` steps on the next batches of an iterator; sets `executed`, returns no logs."""
        if self.train_function is None or force:
            next_steps = compiled_steps(self)

            def without_logs(iterator: Any) -> dict[str, Any]:
                began, steps = time.perf_counter(), self.steps_at_once
                losses, examples, waited = next_steps(iterator, tf.constant(steps))
                losses = losses.numpy()[:steps].tolist()  # waits for the result
                seconds = time.perf_counter() - began
                pace = Pace(steps=steps, examples=float(examples), seconds=seconds, waited=float(waited))
                self.executed = Executed(losses, pace)
                return {}

            self.train_function = without_logs
        return self.train_function

    def train_step(self, data: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """One step of one replica, on one batch.

        Returns:
            Loss and number of rows, over all replicas: float32 [] each.
        """
        found, gradients = self._learn(data)
        self._apply(gradients)
        return found

    def add_step(self, data: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Add the gradients of one of several batches of a step; returns the same as `train_step`."""
        found, gradients = self._learn(data)
        for total, gradient in zip(self.gradient_sums, gradients, strict=True):
            if gradient is not None:
                total.assign_add(tf.convert_to_tensor(gradient))
        return found

    def update_step(self) -> None:
        """End a step of several batches: apply the mean of their gradients."""
        self._apply([total.read_value() / self.accumulate for total in self.gradient_sums])
        for total in self.gradient_sums:
            total.assign(tf.zeros(total.shape))

    def examples_in(self, batch: Any) -> tf.Tensor:
        """Number of rows in this replica's batch (in `labels`), float32 []; 0 if it has none."""
        if "labels" not in batch:
            return tf.zeros([])
        return tf.cast(tf.shape(batch["labels"])[0], tf.float32)

    def _learn(self, data: Any) -> tuple[tuple[tf.Tensor, tf.Tensor], list[Any]]:
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=data, y=None, y_pred=self(data, training=True))
            scaled = self.optimizer.scale_loss(loss)  # if gradients pass through float16; else unchanged
        loss, examples = sum_over_replicas([loss, self.examples_in(data)])
        return (loss, examples), tape.gradient(scaled, self.trainable_weights)

    def _apply(self, gradients: list[Any]) -> None:
        # Dense, because Keras computes the norm of a sparse gradient row by row; one embedding may have
        # several rows, and more of them with fewer replicas.
        dense = [tf.convert_to_tensor(each) for each in gradients if each is not None]
        summed = sum_over_replicas(dense)
        if self.gradient_norm is not None:
            self.gradient_norm.assign(tf.linalg.global_norm(summed) / self.optimizer.scale_loss(tf.ones([])))
        added = iter(summed)
        gradients = [None if each is None else next(added) for each in gradients]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))


def take_added_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Let an optimizer accept gradients that are already summed over the replicas.

    Keras clips each replica's gradient and then adds them, so that N replicas could take N times the step of
    one. With loss scaling, it checks only the first replica for finite gradients.

    Args:
        optimizer: changed in place.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # the optimizer inside a loss scaler
    optimizer._all_reduce_sum_gradients = lambda pairs: pairs
