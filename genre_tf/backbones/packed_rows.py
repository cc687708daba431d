"""GPT-2 for training over rows that hold several texts, none of which sees another."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import keras_hub
import tensorflow as tf

from genre_tf.layers.elementwise import ACTIVATIONS, exact_gelu, layer_norm, tanh_gelu

_MASKED = -1e9  # far below any attention score, and finite, so that a row without texts does not become NaN


class PackedRows(NamedTuple):
    """Texts side by side in rows of one length.

    Attributes:
        token_ids: int32 [rows, time].
        text: int32 [rows, time], the number of each token's text in its row, from 1; 0 for padding.
        position: int32 [rows, time], position of each token in its own text, from 0.
    """

    token_ids: tf.Tensor
    text: tf.Tensor
    position: tf.Tensor


def gpt2_states(
    backbone: keras_hub.models.GPT2Backbone, rows: PackedRows, training: bool = False
) -> tf.Tensor:
    """Last hidden states of packed texts, each computed as if it were alone.

    Args:
        backbone: the model; its layers' products are computed in their own precision.
        rows: packed texts; none may be longer than the backbone's positions.
        training: whether dropout is active, on states but not on attention.

    Returns:
        float32 [rows, time, hidden].

    Source: Radford et al. 2019 (normalization before each layer); Krell et al. 2021, "Efficient Sequence
    Packing without Cross-contamination".
    """
    shape = tf.shape(rows.token_ids)
    states = _looked_up(backbone.token_embedding.embeddings, rows.token_ids)
    states += _looked_up(backbone.position_embedding.position_embeddings, rows.position)
    states = backbone.embeddings_dropout(states, training=training)  # [tokens, hidden]
    hidden_from = _hidden_from(rows.text, causal=True)
    for layer in backbone.transformer_layers:
        before = _normalized(states, layer._self_attention_layer_norm)
        states += _attended(layer, before, shape, hidden_from, training)
        states += _fed_forward(layer, _normalized(states, layer._feedforward_layer_norm), training)
    return tf.reshape(_normalized(states, backbone.layer_norm), [shape[0], shape[1], backbone.hidden_dim])


def dense_layers(backbone: keras_hub.models.GPT2Backbone | keras_hub.models.BertBackbone) -> list[Any]:
    """The layers whose matrix products may be computed in a precision other than float32."""
    found: list[Any] = []
    for layer in backbone.transformer_layers:
        attention = layer._self_attention_layer
        found += [attention.query_dense, attention.key_dense, attention.value_dense, attention.output_dense]
        found += [layer._feedforward_intermediate_dense, layer._feedforward_output_dense]
    return found


def product(flat: tf.Tensor, kernel: tf.Tensor, precision: str, transposed: bool = False) -> tf.Tensor:
    """A matrix product in a given precision: float32 [M, in] x [in, out] -> float32 [M, out].

    Args:
        flat: the left side.
        kernel: the right side; [out, in] if it is transposed.
        precision: data type that both sides are cast to.
        transposed: whether the kernel is transposed.
    """
    left, right = tf.cast(flat, precision), tf.cast(kernel, precision)
    return tf.cast(tf.matmul(left, right, transpose_b=transposed), tf.float32)


def _looked_up(table: Any, ids: tf.Tensor) -> tf.Tensor:
    return tf.gather(tf.convert_to_tensor(table), tf.reshape(ids, [-1]))  # [tokens, hidden]


def _hidden_from(text: tf.Tensor, *, causal: bool) -> tf.Tensor:
    """The addition to the scores: [rows, 1, time, time], far below zero where a token must not look."""
    seen = text[:, :, None] == text[:, None, :]
    if causal:
        place = tf.range(tf.shape(text)[1])
        seen &= place[:, None] >= place[None, :]
    return tf.where(seen, 0.0, _MASKED)[:, None]


def _attended(
    layer: Any, flat: tf.Tensor, shape: tf.Tensor, hidden_from: tf.Tensor, training: bool
) -> tf.Tensor:
    """Multi-head self-attention: [tokens, hidden] -> [tokens, hidden]."""
    attention = layer._self_attention_layer
    heads, width = attention.num_heads, attention.key_dim

    def by_head(dense: keras.layers.EinsumDense) -> tf.Tensor:
        split = tf.reshape(_dense(flat, dense), [shape[0], shape[1], heads, width])
        return tf.transpose(split, [0, 2, 1, 3])  # [rows, heads, time, width]

    query = by_head(attention.query_dense) * width**-0.5
    scores = tf.matmul(query, by_head(attention.key_dense), transpose_b=True)
    # No dropout here, unlike on states: that many random numbers would cost a tenth of the step.
    weights = tf.nn.softmax(scores + hidden_from)  # [rows, heads, time, time]
    mixed = tf.transpose(tf.matmul(weights, by_head(attention.value_dense)), [0, 2, 1, 3])
    mixed = _dense(tf.reshape(mixed, [-1, heads * width]), attention.output_dense)
    return layer._self_attention_dropout(mixed, training=training)


def _fed_forward(layer: Any, flat: tf.Tensor, training: bool) -> tf.Tensor:
    widening = layer._feedforward_intermediate_dense
    widened = _activation(widening.activation)(_dense(flat, widening))  # [tokens, intermediate]
    narrowed = _dense(widened, layer._feedforward_output_dense)
    return layer._feedforward_dropout(narrowed, training=training)


def _activation(activation: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    closed: dict[Any, Any] = {ACTIVATIONS["gelu"]: exact_gelu, ACTIVATIONS["gelu_new"]: tanh_gelu}
    return closed.get(activation, activation)  # type: ignore[no-any-return]


def _dense(flat: tf.Tensor, dense: Any) -> tf.Tensor:
    """[tokens, in] -> [tokens, out], by a dense layer whose weights may be split by heads."""
    bias = tf.reshape(dense.bias, [-1])
    kernel = tf.reshape(dense.kernel, [flat.shape[-1], bias.shape[0]])
    return tf.nn.bias_add(product(flat, kernel, dense.compute_dtype), bias)


def _normalized(flat: tf.Tensor, norm: keras.layers.LayerNormalization) -> tf.Tensor:
    scale, offset = (tf.convert_to_tensor(weight) for weight in (norm.gamma, norm.beta))
    return layer_norm(flat, scale, offset, tf.constant(norm.epsilon, flat.dtype))
