"""The package's BERT layer: values and gradients of KerasHub's, from the same weights."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.activations import ACTIVATIONS
from genre_tf.backbones.direct_gradients import exact_gelu, layer_norm
from genre_tf.backbones.encoder_block import TransformerEncoder

STATES = np.random.default_rng(1).normal(0.0, 2.0, (3, 5, 8)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], bool)


def _block(activation: str = "gelu", dropout: float = 0.0) -> keras_hub.layers.TransformerEncoder:
    block = keras_hub.layers.TransformerEncoder(16, 2, dropout=dropout)
    block.build((None, None, 8))
    block._feedforward_intermediate_dense.activation = ACTIVATIONS[activation]
    drawn = np.random.default_rng(2)
    for weight in block.weights:
        if weight.dtype == "float32":
            weight.assign(drawn.normal(0.1, 0.4, weight.shape))
    return block


def _values_and_gradients(block, training):
    states = tf.constant(STATES)
    with tf.GradientTape() as tape:
        tape.watch(states)
        found = block(states, padding_mask=MASK, training=training)
        loss = tf.reduce_sum(tf.boolean_mask(found, MASK) ** 3)
    weights = [weight.value for weight in block.trainable_weights]
    return found.numpy()[MASK], [part.numpy() for part in tape.gradient(loss, [states, *weights])]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_values_and_gradients_are_kerashubs(activation, training):
    block = _block(activation)
    expected, expected_gradients = _values_and_gradients(block, training)
    TransformerEncoder.take_over(block)
    found, gradients = _values_and_gradients(block, training)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=1e-5 + 1e-3 * np.abs(theirs).max())


def test_dropout_acts_in_training_alone():
    block = _block(dropout=0.5)
    TransformerEncoder.take_over(block)
    states = tf.constant(STATES)
    still = block(states, padding_mask=MASK, training=False)
    np.testing.assert_array_equal(still, block(states, padding_mask=MASK, training=False))
    assert np.abs(block(states, padding_mask=MASK, training=True) - still).max() > 0.1


def test_a_part_that_was_replaced_is_called():
    block = _block()
    TransformerEncoder.take_over(block)
    before = block(tf.constant(STATES), padding_mask=MASK)

    class Doubled(type(block._feedforward_output_dense)):
        def call(self, inputs, training=None):
            return 2.0 * super().call(inputs)

    block._feedforward_output_dense.__class__ = Doubled
    assert np.abs(block(tf.constant(STATES), padding_mask=MASK) - before).max() > 0.1


def test_the_weights_of_lora_count():
    block = _block()
    TransformerEncoder.take_over(block)
    before = block(tf.constant(STATES), padding_mask=MASK)
    block._self_attention_layer.value_dense.enable_lora(2)
    np.testing.assert_allclose(block(tf.constant(STATES), padding_mask=MASK), before, atol=1e-6)
    low_rank = block._self_attention_layer.value_dense.lora_kernel_b
    low_rank.assign(np.ones(low_rank.shape))
    assert np.abs(block(tf.constant(STATES), padding_mask=MASK) - before).max() > 1e-3


def test_an_evaluation_graph_holds_no_gradient_of_its_own():
    block = _block()
    TransformerEncoder.take_over(block)
    graph = tf.function(
        lambda states: block(states, padding_mask=MASK, training=False)
    ).get_concrete_function(tf.TensorSpec([3, 5, 8]))
    assert "IdentityN" not in {op.type for op in graph.graph.get_operations()}


def test_closed_gradients_are_the_numeric_ones():
    drawn = np.random.default_rng(3)
    x, upstream = (drawn.normal(0.0, 1.5, (4, 6)) for _ in range(2))
    scale, offset = (drawn.normal(1.0, 0.3, 6) for _ in range(2))
    arguments = [tf.constant(part) for part in (x, scale, offset)]
    norm = lambda *parts: tf.reduce_sum(layer_norm(*parts, tf.constant(1e-6, tf.float64)) * upstream)  # noqa: E731
    theory, numeric = tf.test.compute_gradient(norm, arguments)
    for mine, true in zip(theory, numeric, strict=True):
        np.testing.assert_allclose(mine, true, atol=1e-6)
    theory, numeric = tf.test.compute_gradient(lambda part: exact_gelu(part) * upstream, arguments[:1])
    np.testing.assert_allclose(theory[0], numeric[0], atol=1e-6)
