"""Losses, gradients and Keras' `fit` over several replicas: what one replica alone would have computed."""

import time
from typing import Any

import keras
import tensorflow as tf

from genre_tf.training.pace import Executed, Pace
from genre_tf.training.steps import compiled_steps


def replica_count() -> int:
    """How many replicas share the batch that is being trained on; 1 outside a strategy."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def sum_over_replicas(values: Any) -> Any:
    """Sums of the same tensors of all replicas; the tensors themselves where there is one replica.

    Args:
        values: a float tensor or a list of them, of the same shapes in each replica.
    """
    if replica_count() == 1:
        return values
    return _context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def rows_of_replicas(values: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas, this one's first; gradients flow back to the replica that a row is of.

    Args:
        values: [n, ...]; n may differ among replicas.

    Returns:
        [n of all, ...].
    """
    if replica_count() == 1:
        return values
    context = _context()
    counts = context.all_gather(tf.shape(values)[:1], axis=0)  # [replicas]
    before = tf.reduce_sum(tf.where(tf.range(replica_count()) < context.replica_id_in_sync_group, counts, 0))
    return tf.roll(context.all_gather(values, axis=0), -before, axis=0)


def _context() -> Any:
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError("a loss of several replicas is computed inside strategy.run")
    return context


class ReplicatedModel(keras.Model):
    """A Keras model whose `fit` works under every strategy; its losses are shares of one global mean.

    `call` gives this replica's share of the loss: what its rows add to the mean over the rows of all of them.
    Gradients of shares add up to the gradient of the mean; they are added *before* they are clipped.

    Keras 3.15's own training function fails under MultiWorkerMirroredStrategy, in `_maybe_symbolic_build`
    (takes the mean over replicas of a batch, strings of different shapes included) and in
    `reduce_per_replica` (reduces scalar logs over axis 0). Both are replaced here;
    `tests/training/test_distribution.py` tells when Keras needs it no more.
    """

    train_function: Any
    accumulate: int = 1
    most_steps: int = 1
    steps_at_once: int = 1
    """Steps of the next call of the train function; at most `most_steps`."""
    executed: Executed
    """What the last call did."""
    gradient_norm: Any = None
    """Variable float32 []: of the last step, before it was clipped; None without `compile_replicated`."""

    def compile_replicated(
        self,
        optimizer: keras.optimizers.Optimizer,
        jit_compile: bool,
        *,
        accumulate: int = 1,
        most_steps: int = 1,
    ) -> None:
        """As `compile`; call it in the scope of the strategy.

        Args:
            optimizer: made in that scope; gets its variables now, since none can be made inside a step.
            jit_compile: whether XLA compiles the step.
            accumulate: batches of one step; it applies the mean of their gradients.
            most_steps: in one call of the train function.
        """
        take_added_gradients(optimizer)
        optimizer.build(self.trainable_variables)
        self.accumulate, self.most_steps = accumulate, most_steps
        # For the logs alone, so not a variable of Keras'.
        self.gradient_norm = tf.Variable(
            0.0,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        if accumulate > 1:  # empty between two steps, so no part of what is saved: not Keras' variables
            self.gradient_sums = [
                tf.Variable(tf.zeros(weight.shape), False, synchronization=tf.VariableSynchronization.ON_READ)
                for weight in self.trainable_weights
            ]
        self.compile(optimizer=optimizer, jit_compile=jit_compile)

    def _maybe_symbolic_build(self, *_: Any, **__: Any) -> None:
        """Nothing: every layer is built when it is made, and a batch less would be trained on."""

    def make_train_function(self, force: bool = False) -> Any:
        """`steps_at_once` steps on the next batches of an iterator; gives no logs, but sets `executed`."""
        if self.train_function is None or force:
            next_steps = compiled_steps(self)

            def without_logs(iterator: Any) -> dict[str, Any]:
                began, steps = time.perf_counter(), self.steps_at_once
                losses, examples, waited = next_steps(iterator, tf.constant(steps))
                losses = losses.numpy()[:steps].tolist()  # waits until it is done
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
        """Adds the gradients of one of several batches of a step; gives what `train_step` gives."""
        found, gradients = self._learn(data)
        for total, gradient in zip(self.gradient_sums, gradients, strict=True):
            if gradient is not None:
                total.assign_add(tf.convert_to_tensor(gradient))
        return found

    def update_step(self) -> None:
        """Ends a step of several batches: applies the mean of their gradients."""
        self._apply([total.read_value() / self.accumulate for total in self.gradient_sums])
        for total in self.gradient_sums:
            total.assign(tf.zeros(total.shape))

    def examples_in(self, batch: Any) -> tf.Tensor:
        """Rows of this replica's batch, float32 []: those of its `labels`; 0 where it has none."""
        if "labels" not in batch:
            return tf.zeros([])
        return tf.cast(tf.shape(batch["labels"])[0], tf.float32)

    def _learn(self, data: Any) -> tuple[tuple[tf.Tensor, tf.Tensor], list[Any]]:
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=data, y=None, y_pred=self(data, training=True))
            scaled = self.optimizer.scale_loss(loss)  # where gradients pass through float16; else the same
        loss, examples = sum_over_replicas([loss, self.examples_in(data)])
        return (loss, examples), tape.gradient(scaled, self.trainable_weights)

    def _apply(self, gradients: list[Any]) -> None:
        # Dense, since Keras takes the norm of a sparse gradient row by row, where one embedding may have
        # several rows, more of them in fewer replicas.
        dense = [tf.convert_to_tensor(each) for each in gradients if each is not None]
        summed = sum_over_replicas(dense)
        if self.gradient_norm is not None:
            self.gradient_norm.assign(tf.linalg.global_norm(summed) / self.optimizer.scale_loss(tf.ones([])))
        added = iter(summed)
        gradients = [None if each is None else next(added) for each in gradients]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))


def take_added_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Let an optimizer take gradients that are added over the replicas already.

    Keras clips each replica's gradient and adds what is left: N replicas would take up to N times the step of
    one. And where it scales losses, it asks the first replica alone whether the gradients are finite.

    Args:
        optimizer: changed in place.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales losses
    optimizer._all_reduce_sum_gradients = lambda pairs: pairs
