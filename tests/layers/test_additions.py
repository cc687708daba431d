"""Additions to frozen layers: what is trained, what is not, and what no gradient is computed for."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.backbones.bert import BERT, load_bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import parse_trainable

IDS = np.array([[2, 40, 41, 42, 3], [2, 50, 3, 0, 0]], np.int32)
TRAINED = {
    "lora 4": {"query_down", "query_up", "value_down", "value_up"},
    "adalora 4": {f"{name}_{part}" for name in ("query", "value") for part in ("left", "values", "right")},
    "adapters 3": {"kernel", "bias", "gamma", "beta"},
    "prefix 5": {"prefix_keys", "prefix_values", "prefix_gate"},
}


@pytest.mark.parametrize("mode", TRAINED)
def test_training_lowers_the_loss_and_moves_what_was_added_alone(mode: str) -> None:
    keras.utils.set_random_seed(3)
    backbone = load_bert("tiny", dropout=0.1).backbone
    lower, upper = split_layers(backbone, parse_trainable(f"{mode} last 1"))
    assert lower is not None
    assert {weight.name for weight in upper.trainable_weights} == TRAINED[mode]
    trained = {id(weight) for weight in upper.trainable_weights}
    layer = backbone.transformer_layers[-1]
    norms = {id(weight) for weight in layer.weights if "norm" in weight.path}
    assert {id(w) for w in backbone.weights} & trained == (norms if mode == "adapters 3" else set())
    output = upper.blocks[-1].parts.project.kernel
    output.assign(10 * output)  # a random one hardly lets anything through
    before = [weight.numpy() for weight in (*lower.weights, *upper.weights)]
    states, goal = lower(IDS), tf.random.stateless_normal([2, 32], [1, 2])
    optimizer = keras.optimizers.Adam(0.03)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((tf.reduce_mean(upper(states, IDS != 0, training=True), 1) - goal) ** 2)
        optimizer.apply(tape.gradient(loss, upper.trainable_weights), upper.trainable_weights)
        return loss

    losses = [float(step()) for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    for weight, start in zip((*lower.weights, *upper.weights), before, strict=True):
        assert np.array_equal(weight, start) == (id(weight) not in trained), weight.path


@pytest.mark.parametrize("mode", TRAINED)
def test_no_gradient_of_a_frozen_kernel_is_computed(mode: str) -> None:
    assert not _kernel_gradients(f"{mode} last 1")


def test_the_gradients_of_trained_kernels_would_be_seen() -> None:
    assert len(_kernel_gradients("last 1")) >= 6, "four of attention and two of the feed-forward layers"


def _kernel_gradients(mode: str) -> list[str]:
    """Ops of a gradient that are needed, depend on the batch and give something of a kernel's shape."""
    backbone = load_bert("tiny", dropout=0.1).backbone
    _, upper = split_layers(backbone, parse_trainable(mode))
    kernels = (w for w in BERT.weights(backbone) if "layer." in w.name and len(w.shape) == 2)
    shapes = {tuple(kernel.variables[0].shape) for kernel in kernels}
    shapes |= {(32, 32)}  # those of attention, where their heads are joined for a product

    @tf.function
    def gradients(states: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(upper(states, tf.ones(tf.shape(states)[:2], tf.bool), training=True) ** 3)
        return tape.gradient(loss, upper.trainable_weights)

    graph = gradients.get_concrete_function(tf.TensorSpec([None, None, 32])).graph
    needed = list(_ancestors(tensor.op for tensor in graph.outputs))
    of_batch = {graph.inputs[0].op}
    for op in graph.get_operations():  # in order of creation, so inputs come first
        if any(tensor.op in of_batch for tensor in op.inputs):
            of_batch.add(op)
    return [
        op.name for op in needed if op in of_batch and any(_shape(output) in shapes for output in op.outputs)
    ]


def _shape(output: tf.Tensor) -> tuple[int | None, ...] | None:
    return None if output.shape.rank is None else tuple(output.shape.as_list())


def _ancestors(ops: Iterator[tf.Operation]) -> Iterator[tf.Operation]:
    waiting, seen = list(ops), set()
    while waiting:
        op = waiting.pop()
        if op not in seen:
            seen.add(op)
            yield op
            waiting += [tensor.op for tensor in op.inputs]
