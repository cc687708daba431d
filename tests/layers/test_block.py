"""The transformer layer: values and gradients of KerasHub's layers, from the same weights."""

from typing import Any

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.hub import hub_blocks
from genre_tf.layers.attention import Attention, Padded, Unpadded, causal_bias, padding_bias
from genre_tf.layers.block import transformed
from genre_tf.layers.elementwise import (
    ACTIVATIONS,
    exact_gelu,
    gated_silu,
    layer_norm,
    rms_norm,
    rotary_turns,
    tanh_gelu,
)

STATES = np.random.default_rng(1).normal(0.0, 2.0, (3, 5, 8)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], bool)


def backbone_of(family: str, activation: str = "gelu", dropout: float = 0.0) -> Any:
    sizes = {"vocabulary_size": 11, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}
    if family == "llama":
        built = keras_hub.models.Llama3Backbone(
            **sizes, num_query_heads=4, num_key_value_heads=2, rope_max_wavelength=500
        )
    else:
        model = keras_hub.models.BertBackbone if family == "bert" else keras_hub.models.GPT2Backbone
        built = model(**sizes, num_heads=2, dropout=dropout, max_sequence_length=8)
        for block in hub_blocks(built):
            block.parts.expand.activation = ACTIVATIONS[activation]
    drawn = np.random.default_rng(2)
    for weight in built.weights:
        if weight.dtype == "float32":
            weight.assign(drawn.normal(0.1, 0.4, weight.shape))
    return built


def of_kerashub(block: Any, states: tf.Tensor, training: bool) -> tf.Tensor:
    mask = {"padding_mask" if not block.norm_first else "decoder_padding_mask": tf.constant(MASK)}
    return block.layer(states, **mask, training=training)


def ours(block: Any, states: tf.Tensor, training: bool, layout: Any = None) -> tf.Tensor:
    layout = layout or Padded(states)
    turns = rotary_turns(tf.range(5), block.depth, 500.0) if block.parts.gate is not None else None
    bias = padding_bias(tf.constant(MASK)) + (causal_bias(5) if block.norm_first else 0.0)
    flat = transformed(block, layout.flat(states), Attention(layout, bias, turns), training)
    return layout.padded(flat, training)


def values_and_gradients(block: Any, layer: Any, training: bool) -> tuple[np.ndarray, list[np.ndarray]]:
    states = tf.constant(STATES)
    with tf.GradientTape() as tape:
        tape.watch(states)
        found = layer(block, states, training)
        loss = tf.reduce_sum(tf.boolean_mask(found, MASK) ** 3)
    weights = [weight.value for weight in block.trainable_weights]
    return found.numpy()[MASK], [part.numpy() for part in tape.gradient(loss, [states, *weights])]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_kerashub_has_not_moved(family: str) -> None:
    """Each weight of a layer is where `hub.py` looks for it; if not, a new KerasHub renamed it."""
    for block in hub_blocks(backbone_of(family)):
        parts = block.parts
        placed = [*parts.dense.values(), parts.attention_norm, parts.feed_forward_norm]
        names = ("kernel", "bias", "scale", "offset")
        found = [
            id(weight)
            for part in placed
            for name in names
            if (weight := getattr(part, name, None)) is not None
        ]
        kept = [id(weight) for weight in block.layer.weights if weight.dtype == "float32"]
        assert sorted(found) == sorted(kept)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("family", "activation"), [("bert", "gelu"), ("bert", "gelu_new"), ("gpt2", "gelu_new"), ("llama", "")]
)
def test_values_and_gradients_are_kerashubs(family: str, activation: str, training: bool) -> None:
    block = hub_blocks(backbone_of(family, activation))[1]
    expected, expected_gradients = values_and_gradients(block, of_kerashub, training)
    found, gradients = values_and_gradients(block, ours, training)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=5e-5 + 1e-3 * np.abs(theirs).max())


def test_dropout_acts_in_training_alone() -> None:
    block = hub_blocks(backbone_of("bert", dropout=0.5))[0]
    states = tf.constant(STATES)
    still = ours(block, states, False)
    np.testing.assert_array_equal(still, ours(block, states, False))
    assert np.abs(ours(block, states, True) - still).max() > 0.1


def test_an_evaluation_graph_holds_no_gradient_of_its_own() -> None:
    block = hub_blocks(backbone_of("bert"))[0]
    graph = tf.function(
        lambda states: ours(block, states, False, Unpadded(tf.constant(MASK)))
    ).get_concrete_function(tf.TensorSpec([3, 5, 8]))
    assert "IdentityN" not in {op.type for op in graph.graph.get_operations()}


def test_closed_gradients_are_the_numeric_ones() -> None:
    drawn = np.random.default_rng(3)
    x, upstream = (drawn.normal(0.0, 1.5, (4, 6)) for _ in range(2))
    scale, offset = (drawn.normal(1.0, 0.3, 6) for _ in range(2))
    epsilon = tf.constant(1e-6, tf.float64)
    for function, arguments in (
        (exact_gelu, [x]),
        (tanh_gelu, [x]),
        (gated_silu, [x, upstream]),
        (lambda *parts: layer_norm(*parts, epsilon), [x, scale, offset]),
        (lambda *parts: rms_norm(*parts, epsilon), [x, scale]),
    ):
        theory, numeric = tf.test.compute_gradient(
            lambda *parts, function=function: tf.reduce_sum(function(*parts) * upstream),
            [tf.constant(part) for part in arguments],
        )
        for mine, true in zip(theory, numeric, strict=True):
            np.testing.assert_allclose(mine, true, atol=1e-6)
