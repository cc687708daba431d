"""Losses, gradients and Keras' `fit` over several replicas: what one replica alone would have computed."""

from typing import Any

import keras
import tensorflow as tf


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

    def compile_replicated(self, optimizer: keras.optimizers.Optimizer, jit_compile: bool) -> None:
        """As `compile`; call it in the scope of the strategy.

        Args:
            optimizer: made in that scope; gets its variables now, since none can be made inside a step.
            jit_compile: whether XLA compiles the step.
        """
        add_before_clipping(optimizer)
        optimizer.build(self.trainable_variables)
        self.compile(optimizer=optimizer, jit_compile=jit_compile)

    def _maybe_symbolic_build(self, *_: Any, **__: Any) -> None:
        """Nothing: every layer is built when it is made, and a batch less would be trained on."""

    def make_train_function(self, force: bool = False) -> Any:
        """One step on the next batch of an iterator; gives no logs."""
        if self.train_function is None or force:
            strategy, on_replica = self.distribute_strategy, self.train_step
            if self.jit_compile:
                on_replica = tf.function(on_replica, jit_compile=True, autograph=False)

            # Batches are fetched inside, where their shapes are those of all batches and not of the next.
            @tf.function(reduce_retracing=True, autograph=False)
            def next_step(iterator: Any) -> None:
                strategy.run(on_replica, args=(iterator.get_next(),))

            def without_logs(iterator: Any) -> dict[str, Any]:
                next_step(iterator)
                return {}

            self.train_function = without_logs
        return self.train_function

    def train_step(self, data: Any) -> None:
        """One step of one replica."""
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=data, y=None, y_pred=self(data, training=True))
            loss = self.optimizer.scale_loss(loss)  # where gradients pass through float16; else the same
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))


def add_before_clipping(optimizer: keras.optimizers.Optimizer) -> None:
    """Let an optimizer add the replicas' gradients before it clips them.

    Keras clips each replica's gradient and adds what is left: N replicas would take up to N times the step of
    one. It also takes the norm of a sparse gradient row by row, where one embedding may have several rows,
    more of them in fewer replicas; so gradients are made dense first.

    Args:
        optimizer: changed in place.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales losses
    clip = optimizer._clip_gradients
    optimizer._clip_gradients = lambda gradients: clip(
        sum_over_replicas([tf.convert_to_tensor(gradient) for gradient in gradients])
    )
    optimizer._all_reduce_sum_gradients = lambda pairs: pairs  # they are the same everywhere by now
