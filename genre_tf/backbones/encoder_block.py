"""KerasHub's BERT layer with the same weights and results, computed in fewer passes over memory."""

from typing import Any

import keras
import keras_hub
import tensorflow as tf

from genre_tf.backbones.activations import ACTIVATIONS
from genre_tf.backbones.direct_gradients import exact_gelu, layer_norm
from genre_tf.backbones.token_layout import Packed, Padded

_MASKED = -1e9  # far below any attention score, and finite, so that a row without tokens does not become NaN


class TransformerEncoder(keras_hub.layers.TransformerEncoder):
    """Self-attention and feed-forward layers of a BERT over flat tokens.

    All matrix products have rank 2 and are followed by their bias, which oneDNN computes as one operation;
    Keras' own layers use `einsum`, and differentiate normalization and GELU op by op. An export contains
    plain ops only; the closed-form gradients are used in training only.

    The class has the name of its base class: Keras names weights in files after it, and presets must stay
    readable.

    Source: Devlin et al., "BERT", 2018 (normalization after the residual).
    """

    @classmethod
    def take_over(cls, block: keras_hub.layers.TransformerEncoder) -> None:
        """Make a layer that a KerasHub backbone has built compute this way; its weights do not change."""
        # The backbone creates its own layers and offers no hook for another class.
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
            attention_mask: bool [N, T, T]; if given, KerasHub's own computation is used, as in 16 bits.
            training: whether dropout is active.
            return_attention_scores: if set, KerasHub's own computation is used.

        Returns:
            float [N, T, hidden].
        """
        plain = inputs.dtype == tf.float32 and self.is_plain()
        if attention_mask is not None or return_attention_scores or not plain:
            return super().call(inputs, padding_mask, attention_mask, training, return_attention_scores)
        layout = Padded(padding_mask, tf.shape(inputs))
        states = layout.padded(self.encode(layout.flat(inputs), layout, training), training)
        return tf.ensure_shape(states, inputs.shape)

    def encode(self, flat: tf.Tensor, layout: Padded | Packed, training: bool | None) -> tf.Tensor:
        """Encode the tokens of several texts; requires `is_plain`.

        Args:
            flat: float32 [tokens, hidden].
            layout: which text each token belongs to.
            training: whether dropout is active.

        Returns:
            float32 [tokens, hidden].
        """
        attended = self._attend(flat, layout, training)
        attended = self._self_attention_dropout(attended, training=training)
        flat = _normalized(flat + attended, self._self_attention_layer_norm, training)
        widened = _product(flat, self._feedforward_intermediate_dense)  # [tokens, intermediate]
        widened = self._activated(widened, training)
        narrowed = _product(widened, self._feedforward_output_dense)
        narrowed = self._feedforward_dropout(narrowed, training=training)
        return _normalized(flat + narrowed, self._feedforward_layer_norm, training)

    def is_plain(self) -> bool:
        """Whether every part is what KerasHub built, in float32; otherwise the parts must be called."""
        attention = self._self_attention_layer
        projections = (*_projections(attention), attention.output_dense)
        dense = (self._feedforward_intermediate_dense, self._feedforward_output_dense)
        return (
            not self.normalize_first
            and self.compute_dtype == "float32"
            # In a 16-bit layer, Keras casts weights that are read outside their own layer's call.
            and tf.convert_to_tensor(dense[0].bias).dtype == tf.float32
            and type(attention) is keras.layers.MultiHeadAttention
            and all(type(part) is keras.layers.EinsumDense for part in projections)
            and all(type(part) is keras.layers.Dense for part in dense)
            and not any(part.quantization_mode for part in (*projections, *dense))
        )

    def _attend(self, flat: tf.Tensor, layout: Padded | Packed, training: bool | None) -> tf.Tensor:
        """Multi-head self-attention: [tokens, hidden] -> [tokens, hidden]."""
        attention = self._self_attention_layer
        kernels, biases = zip(
            *(_matrix(part, flat.shape[-1]) for part in _projections(attention)), strict=True
        )
        scale = attention.key_dim**-0.5  # scales the scores; applied to the smallest tensor
        kernel = tf.concat([kernels[0] * scale, *kernels[1:]], 1)  # [hidden, 3 * heads * width]
        bias = tf.concat([biases[0] * scale, *biases[1:]], 0)
        fused = tf.nn.bias_add(tf.matmul(flat, kernel), bias)
        query, key, value = layout.by_head(fused, attention.num_heads, training)
        scores = tf.matmul(query, key, transpose_b=True)  # [texts, heads, tokens, tokens]
        if layout.mask is not None:
            scores += _MASKED * (1.0 - tf.cast(layout.mask, flat.dtype))[:, None, None, :]
        weights = tf.nn.softmax(scores)
        if attention.dropout:
            weights = attention._dropout_layer(weights, training=training)
        mixed = layout.joined(tf.matmul(weights, value), training)
        # If TensorFlow sees equal shapes, it fuses the following addition into the product.
        return _product(tf.reshape(mixed, tf.shape(flat)), attention.output_dense)

    def _activated(self, values: tf.Tensor, training: bool | None) -> tf.Tensor:
        activation = self._feedforward_intermediate_dense.activation
        return exact_gelu(values) if training and activation is ACTIVATIONS["gelu"] else activation(values)


def _projections(attention: keras.layers.MultiHeadAttention) -> tuple[keras.layers.EinsumDense, ...]:
    return attention.query_dense, attention.key_dense, attention.value_dense


def _matrix(dense: Any, rows: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Kernel [rows, out] and bias [out] of a dense layer whose weights may be split by heads."""
    return tf.reshape(dense.kernel, [rows, -1]), tf.reshape(dense.bias, [-1])


def _product(flat: tf.Tensor, dense: Any) -> tf.Tensor:
    """[tokens, in] -> [tokens, out]."""
    kernel, bias = _matrix(dense, flat.shape[-1])
    return tf.nn.bias_add(tf.matmul(flat, kernel), bias)


def _normalized(flat: tf.Tensor, norm: keras.layers.LayerNormalization, training: bool | None) -> tf.Tensor:
    scale, offset = (tf.convert_to_tensor(weight) for weight in (norm.gamma, norm.beta))
    if training:
        return layer_norm(flat, scale, offset, tf.constant(norm.epsilon, flat.dtype))
    centred = flat - tf.reduce_mean(flat, -1, keepdims=True)
    spread = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + norm.epsilon)
    return centred * spread * scale + offset
