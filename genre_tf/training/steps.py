"""The compiled function of a training: several steps in one call, each with one or several batches."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Found = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Loss, rows, seconds spent waiting."""


def compiled_steps(model: Any) -> Callable[[Any, tf.Tensor], Found]:
    """A function that runs the next steps of a `ReplicatedModel`.

    Keras' own gradient accumulation is not used. It updates the weights in a branch of the graph, where
    strategies cannot merge several replicas (RuntimeError: "merge_call called while defining a new graph"),
    and a state saved between two updates would hold the sums of the first replica only. Here the loop over
    the batches of a step is inside the step: the schedule counts updates, replicas communicate once per step,
    and states are saved between steps.

    Waiting is measured inside the graph, by the clock before and after a batch is drawn. Keras' loop around
    this function sees whole calls only, and drawing outside would give each batch its own shapes and a new
    trace. In a call of several steps the host of a GPU or TPU may run ahead of the device; a wait of the host
    is then not yet a wait of the device, so the reported time is an upper bound.

    Args:
        model: the compiled model; every replica runs its `train_step`, or its `add_step` and `update_step`.

    Returns:
        (iterator of batches, int32 [] number of steps) -> losses float32 [most_steps]; only the first `steps`
        are valid; rows of all their batches, float32 []; seconds spent waiting for them, float64 [].
    """
    strategy, batches = model.distribute_strategy, model.accumulate

    def compiled(step: Any) -> Any:
        return tf.function(step, jit_compile=True, autograph=False) if model.jit_compile else step

    train_step, add_step, update_step = map(compiled, (model.train_step, model.add_step, model.update_step))

    def learn(iterator: Any, step: Callable[..., Any]) -> Found:
        before = tf.timestamp()
        with tf.control_dependencies([before]):
            batch = iterator.get_next()
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            waited = tf.timestamp() - before

        def on_replica(batch: Any, clock: tf.Tensor) -> Any:
            # Otherwise work on the batch could start before the clock is read and would count as waiting.
            with tf.control_dependencies([clock]):
                batch = tf.nest.map_structure(tf.identity, batch, expand_composites=True)
            return step(batch)

        found = strategy.run(on_replica, args=(batch, tf.cast(waited, tf.float32)))
        loss, examples = (strategy.experimental_local_results(each)[0] for each in found)
        return loss, examples, waited

    def one_step(iterator: Any) -> Found:
        if batches == 1:
            return learn(iterator, train_step)
        losses, examples, waited = in_turn(lambda: learn(iterator, add_step), tf.constant(batches), batches)
        strategy.run(update_step)
        return tf.reduce_mean(losses), examples, waited

    # Batches are fetched inside, where their shapes are those of all batches, not those of the next one.
    @tf.function(reduce_retracing=True, autograph=False)
    def next_steps(iterator: Any, steps: tf.Tensor) -> Found:
        return in_turn(lambda: one_step(iterator), steps, model.most_steps)

    return next_steps


def in_turn(one: Callable[[], Found], times: tf.Tensor, most: int) -> Found:
    """Run a step several times, each after the previous one has ended.

    Args:
        one: the step; traced once.
        times: int32 [], at most `most`.
        most: size of the array of losses.

    Returns:
        Losses float32 [most], zeros beyond `times`; total rows and total seconds.
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
