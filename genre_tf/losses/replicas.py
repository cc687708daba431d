"""Sums and rows over all replicas of a `tf.distribute` strategy, for losses that are means over all rows."""

from typing import Any

import tensorflow as tf


def replica_count() -> int:
    """Number of replicas that share the current batch; 1 outside a strategy."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def sum_over_replicas(values: Any) -> Any:
    """Sums of float tensors, which have the same shapes in each replica, over all replicas."""
    if replica_count() == 1:
        return values
    return _context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def rows_of_replicas(values: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas, this one's first: [n, ...] -> [n of all, ...]; n may differ.

    Gradients flow back to the replica of each row.
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
        raise RuntimeError("losses over several replicas must be computed inside strategy.run")
    return context
