"""Rows a chunk at a time: values and gradients of all at once, the same dropout in the second pass."""

import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import load_bert
from genre_tf.backbones.layers import in_chunks, split_layers
from genre_tf.backbones.trainable import parse_trainable

IDS = np.array(
    [[2, 40, 41, 42, 3], [2, 50, 3, 0, 0], [2, 40, 3, 0, 0], [2, 60, 61, 3, 0], [2, 3, 0, 0, 0]], np.int32
)
REAL = (IDS != 0)[:, :, None].astype(np.float32)
GOAL = tf.random.stateless_normal([5, 5, 32], [3, 4])


def _upper(mode: str, dropout: float) -> tuple[Any, Any]:
    keras.utils.set_random_seed(5)
    backbone = load_bert("tiny", dropout=dropout).backbone
    _, upper = split_layers(backbone, parse_trainable(mode))
    return upper, IDS if upper.embeddings is not None else tf.random.stateless_normal([5, 5, 32], [1, 2])


@functools.cache
def _two_steps(mode: str, size: int, dropout: float, jit_compile: bool = False) -> list[np.ndarray]:
    """Loss and gradients of two steps; size 0: all rows at once."""
    upper, given = _upper(mode, dropout)

    def encode(rows: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        return upper(rows, mask, training=True)

    rows = tf.constant(given), tf.constant(IDS != 0)
    # Only where sizes are fixed do layers compute the padding too.
    sizes = [part.shape if jit_compile else [None, None, *part.shape[2:]] for part in rows]

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec(shape, part.dtype) for shape, part in zip(sizes, rows, strict=True)],
    )
    def step(*rows: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            states = in_chunks(encode, [upper], rows, size) if size else encode(*rows)
            loss = tf.reduce_sum(states * GOAL * REAL)
        return [loss, *tape.gradient(loss, [weight.value for weight in upper.trainable_weights])]

    return [tf.convert_to_tensor(found).numpy() for _ in range(2) for found in step(*rows)]


@pytest.mark.parametrize("mode", ["all", "last 1", "lora 4 last 1"])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_values_and_gradients_equal_those_of_all_rows_at_once(mode: str, size: int) -> None:
    whole, parts = (_two_steps(mode, rows, dropout=0.0) for rows in (0, size))
    assert len(whole) == len(parts) >= 10
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_one_chunk_draws_the_dropout_of_a_plain_call_and_each_step_its_own() -> None:
    whole, parts = (_two_steps("last 1", rows, dropout=0.3) for rows in (0, 5))
    assert whole[0] != whole[len(whole) // 2]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_dropout_which_was_drawn() -> None:
    """A finite difference along the gradient, with the same random states both times."""
    upper, given = _upper("last 1", 0.3)
    rows = tf.constant(given), tf.constant(IDS != 0)
    states = [weight for weight in upper.non_trainable_variables if "int" in weight.dtype]
    start = [tf.convert_to_tensor(state.value) for state in states]

    @tf.function
    def loss_and_gradients() -> tuple[tf.Tensor, list[tf.Tensor]]:
        for state, value in zip(states, start, strict=True):
            state.assign(value)
        with tf.GradientTape() as tape:
            encoded = in_chunks(lambda *rows: upper(*rows, training=True), [upper], rows, 2)
            loss = tf.reduce_sum(encoded * GOAL)
        return loss, tape.gradient(loss, [weight.value for weight in upper.trainable_weights])

    before, gradients = loss_and_gradients()
    norm, step = float(tf.linalg.global_norm(gradients)), 1e-3
    for weight, gradient in zip(upper.trainable_weights, gradients, strict=True):
        weight.assign_add(step / norm * gradient)
    after, _ = loss_and_gradients()
    assert float(after - before) == pytest.approx(step * norm, rel=0.05)


def test_it_compiles_where_shapes_are_fixed() -> None:
    plain, compiled = (_two_steps("last 1", 2, 0.0, jit) for jit in (False, True))
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
