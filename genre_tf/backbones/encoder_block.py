"""KerasHub's BERT layer with the same weights and values, computed in fewer passes over memory."""

from typing import Any

import keras
import keras_hub
import tensorflow as tf

from genre_tf.backbones.activations import ACTIVATIONS
from genre_tf.backbones.direct_gradients import exact_gelu, layer_norm

_MASKED = -1e9  # far below any attention score, and finite: a row without tokens must not become no number


class TransformerEncoder(keras_hub.layers.TransformerEncoder):
    """Self-attention and feed-forward layers of a BERT over flat tokens.

    All matrix products are of rank 2 with the bias right behind, which oneDNN computes as one; Keras' own
    layers go through `einsum`, and leave normalization and GELU to be differentiated op by op. An export
    holds plain ops alone; the closed gradients are used in training only.

    Has the name of its base: Keras names weights in files after the class, and presets must stay readable.

    Source: Devlin et al., "BERT", 2018 (normalization after the residual).
    """

    @classmethod
    def take_over(cls, block: keras_hub.layers.TransformerEncoder) -> None:
        """Make a layer that a KerasHub backbone has built compute this way; its weights stay."""
        # The backbone builds its own layers and has no hook for another class.
        block.__class__ = cls

    def call(
        self,
        inputs: tf.Tensor,
        padding_mask: tf.Tensor | None = None,
        attention_mask: tf.Tensor | None = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Encode states.

        Args:
            inputs: float [N, T, hidden].
            padding_mask: bool [N, T], True for real tokens.
            attention_mask: bool [N, T, T]; with it KerasHub's own computation is used, as in 16 bits.
            training: whether dropout acts.
            return_attention_scores: likewise KerasHub's.

        Returns:
            float [N, T, hidden].
        """
        plain = inputs.dtype == tf.float32 and self._is_plain()
        if attention_mask is not None or return_attention_scores or not plain:
            return super().call(inputs, padding_mask, attention_mask, training, return_attention_scores)
        shape = tf.shape(inputs)
        flat = tf.reshape(inputs, [-1, inputs.shape[-1]])  # [tokens, hidden]
        attended = self._attend(flat, shape, padding_mask, training)
        attended = self._self_attention_dropout(attended, training=training)
        flat = _normalized(flat + attended, self._self_attention_layer_norm, training)
        widened = _product(flat, self._feedforward_intermediate_dense)  # [tokens, intermediate]
        widened = self._activated(widened, training)
        narrowed = _product(widened, self._feedforward_output_dense)
        narrowed = self._feedforward_dropout(narrowed, training=training)
        flat = _normalized(flat + narrowed, self._feedforward_layer_norm, training)
        return tf.ensure_shape(tf.reshape(flat, shape), inputs.shape)

    def _is_plain(self) -> bool:
        """Whether every part is what KerasHub built; what was put in its place must be called itself."""
        attention = self._self_attention_layer
        projections = (
            attention.query_dense,
            attention.key_dense,
            attention.value_dense,
            attention.output_dense,
        )
        dense = (self._feedforward_intermediate_dense, self._feedforward_output_dense)
        return (
            not self.normalize_first
            and type(attention) is keras.layers.MultiHeadAttention
            and all(type(part) is keras.layers.EinsumDense for part in projections)
            and all(type(part) is keras.layers.Dense for part in dense)
            and not any(part.quantization_mode for part in (*projections, *dense))
        )

    def _attend(
        self, flat: tf.Tensor, shape: tf.Tensor, mask: tf.Tensor | None, training: bool | None
    ) -> tf.Tensor:
        """Multi-head self-attention: [tokens, hidden] -> [tokens, hidden]."""
        attention = self._self_attention_layer
        heads, width = attention.num_heads, attention.key_dim

        def by_head(dense: keras.layers.EinsumDense) -> tf.Tensor:
            split = tf.reshape(_product(flat, dense), [shape[0], shape[1], heads, width])
            return tf.transpose(split, [0, 2, 1, 3])  # [texts, heads, tokens, width]

        query = by_head(attention.query_dense) * tf.cast(width**-0.5, flat.dtype)
        scores = tf.matmul(query, by_head(attention.key_dense), transpose_b=True)
        if mask is not None:
            padding = 1.0 - tf.cast(mask, flat.dtype)
            scores += _MASKED * padding[:, None, None, :]
        weights = tf.nn.softmax(scores)  # [texts, heads, tokens, tokens]
        if attention.dropout:
            weights = attention._dropout_layer(weights, training=training)
        mixed = tf.transpose(tf.matmul(weights, by_head(attention.value_dense)), [0, 2, 1, 3])
        return _product(tf.reshape(mixed, [-1, heads * width]), attention.output_dense)

    def _activated(self, values: tf.Tensor, training: bool | None) -> tf.Tensor:
        activation = self._feedforward_intermediate_dense.activation
        return exact_gelu(values) if training and activation is ACTIVATIONS["gelu"] else activation(values)


def _product(flat: tf.Tensor, dense: Any) -> tf.Tensor:
    """[tokens, in] -> [tokens, out], by a dense layer whose weights may be split by heads."""
    bias = tf.reshape(dense.bias, [-1])
    return tf.nn.bias_add(tf.matmul(flat, tf.reshape(dense.kernel, [flat.shape[-1], bias.shape[0]])), bias)


def _normalized(flat: tf.Tensor, norm: keras.layers.LayerNormalization, training: bool | None) -> tf.Tensor:
    scale, offset = (tf.convert_to_tensor(weight) for weight in (norm.gamma, norm.beta))
    if training:
        return layer_norm(flat, scale, offset, tf.constant(norm.epsilon, flat.dtype))
    centred = flat - tf.reduce_mean(flat, -1, keepdims=True)
    spread = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + norm.epsilon)
    return centred * spread * scale + offset
