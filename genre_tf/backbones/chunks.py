"""Gradient checkpointing by rows: some texts at a time, recomputed for the gradient, never all in memory."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


def in_chunks(
    function: Callable[..., tf.Tensor],
    layers: Sequence[keras.layers.Layer],
    rows: Sequence[tf.Tensor],
    size: int,
) -> tf.Tensor:
    """In training, apply layers to some rows at a time, so that memory does not grow with their number.

    Values and gradients equal those of one call per chunk, including dropout: the recomputation of a chunk
    starts from the random states of its first computation. (`tf.recompute_grad` does not support loops, and
    `keras.remat` draws different dropout the second time.) Gradients flow to the trained weights of the
    layers, not to the rows; none are computed for frozen weights.

    Args:
        function: calls the layers; must treat each row separately. Returns float32 [n, ...] for n rows.
        layers: all layers that `function` uses, already built.
        rows: tensors of N rows each, [N, ...].
        size: rows in a chunk; the last chunk is padded with zeros.

    Returns:
        The results of `function`, float32 [N, ...].

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; Gao et al., "Scaling Deep
    Contrastive Learning Batch Size under Memory Limited Setup", 2021 (chunks of a batch).
    """
    number_of_rows = _length(rows[0])
    chunks = -(-number_of_rows // size)
    apply = _Chunk(function, layers, [_cut(part, chunks, size) for part in rows])

    @tf.custom_gradient
    def run(*weights: tf.Tensor) -> Any:
        outputs, after = _forward(apply, weights, chunks)

        def gradient(*of_outputs: tf.Tensor) -> list[tf.Tensor]:
            return _backward(apply, weights, of_outputs[0], chunks)

        return [outputs, *after], gradient

    outputs, *after = run(*(tf.convert_to_tensor(weight.value) for weight in apply.trained))
    for state, value in zip(apply.states, after, strict=True):
        state.assign(value)
    rows_of_all = tf.concat([[chunks * size], tf.shape(outputs)[2:]], 0)
    return tf.reshape(outputs, rows_of_all)[:number_of_rows]


class _Chunk:
    """One chunk as a function of its number, the trained weights and the random states."""

    def __init__(
        self,
        function: Callable[..., tf.Tensor],
        layers: Sequence[keras.layers.Layer],
        rows: Sequence[tf.Tensor],
    ) -> None:
        self.function, self.rows = function, rows
        self.trained = [weight for layer in layers for weight in layer.trainable_variables]
        others = [weight for layer in layers for weight in layer.non_trainable_variables]
        self.states = [weight for weight in others if "int" in weight.dtype]  # random states of dropout
        self.start = [tf.convert_to_tensor(state.value) for state in self.states]
        frozen = [weight for weight in others if "int" not in weight.dtype]
        self.frozen = [(weight, tf.convert_to_tensor(weight.value)) for weight in frozen]

    def __call__(
        self, number: Any, weights: Sequence[tf.Tensor], states: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Outputs of the chunk, and the random states after it."""
        given = [
            *zip(self.trained, weights, strict=True),
            *zip(self.states, states, strict=True),
            *self.frozen,
        ]
        with keras.StatelessScope(given) as scope:
            outputs = self.function(*(tf.gather(part, number) for part in self.rows))
        return outputs, [scope.get_current_value(state) for state in self.states]


def _forward(apply: _Chunk, weights: Sequence[tf.Tensor], chunks: Any) -> tuple[tf.Tensor, list[tf.Tensor]]:
    done = tf.TensorArray(tf.float32, chunks)

    def body(number: Any, states: list[tf.Tensor], done: tf.TensorArray) -> Any:
        outputs, states = apply(number, weights, states)
        return number + 1, states, done.write(number, outputs)

    _, after, done = tf.while_loop(
        lambda number, *_: number < chunks, body, (0, apply.start, done), parallel_iterations=1
    )
    return done.stack(), after


def _backward(
    apply: _Chunk, weights: Sequence[tf.Tensor], of_outputs: tf.Tensor, chunks: Any
) -> list[tf.Tensor]:
    def body(number: Any, states: list[tf.Tensor], sums: list[tf.Tensor]) -> Any:
        here = [tf.identity(weight) for weight in weights]
        with tf.GradientTape() as tape:
            tape.watch(here)
            outputs, states = apply(number, here, states)
        found = tape.gradient(
            outputs,
            here,
            tf.gather(of_outputs, number),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return number + 1, states, [total + part for total, part in zip(sums, found, strict=True)]

    zeros = [tf.zeros_like(weight) for weight in weights]
    _, _, sums = tf.while_loop(
        lambda number, *_: number < chunks, body, (0, apply.start, zeros), parallel_iterations=1
    )
    return sums  # type: ignore[no-any-return]


def _length(rows: tf.Tensor) -> Any:
    return tf.shape(rows)[0] if rows.shape[0] is None else rows.shape[0]


def _cut(rows: tf.Tensor, chunks: Any, size: int) -> tf.Tensor:
    """[N, ...] -> [chunks, size, ...]; the last chunk is padded with zeros."""
    missing = chunks * size - _length(rows)
    filled = tf.pad(rows, [[0, missing], *[[0, 0]] * (len(rows.shape) - 1)])
    cut = tf.reshape(filled, tf.concat([[chunks, size], tf.shape(rows)[1:]], 0))
    return tf.ensure_shape(cut, [None, size, *rows.shape[1:]])
