"""Gradient checkpointing: a layer's activations are computed again for its gradient, not kept."""

import keras
import tensorflow as tf


def rematerialised(block: keras.layers.Layer, states: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Calls a transformer layer in training, keeping only its input for the gradient.

    `keras.remat` would draw other dropout masks the second time, since each draw moves the layer's seed on.
    Here the layer is called as a function of its weights and seeds, both times with the same ones; gradients
    equal those without it. Frozen weights are no argument of that function: no gradient is computed for them.

    Args:
        block: the layer, built.
        states: float [N, T, hidden].
        mask: bool [N, T], True for real tokens.

    Returns:
        What `block(states, padding_mask=mask, training=True)` gives, float [N, T, hidden].

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """
    trained = list(block.trainable_variables)
    others = list(block.non_trainable_variables)  # frozen weights, and the seeds of dropout
    before = [tf.convert_to_tensor(variable.value) for variable in others]
    moved: list[list[tf.Tensor]] = []

    def function(states: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
        given = [*zip(trained, weights, strict=True), *zip(others, before, strict=True)]
        with keras.StatelessScope(given) as scope:
            outputs = block(states, padding_mask=mask, training=True)
        moved.append([scope.get_current_value(variable) for variable in others])
        return outputs

    outputs = tf.recompute_grad(function)(states, *(tf.convert_to_tensor(v.value) for v in trained))
    for variable, start, end in zip(others, before, moved[0], strict=True):
        if end is not start:
            variable.assign(end)
    return outputs
