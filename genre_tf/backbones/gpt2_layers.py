"""GPT-2 for training: KerasHub's weights and results, computed in fewer passes over memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from genre_tf.backbones.causal_prefix import Prefix
from genre_tf.backbones.low_rank import LowRank, TokenRows, assigned
from genre_tf.backbones.trainable import WHOLE, Trainable, check_fits
from genre_tf.layers.block import set_trainable
from genre_tf.layers.elementwise import ACTIVATIONS, layer_norm, tanh_gelu

_MASKED = -1e9  # far below any attention score, and finite


class Gpt2Layers(keras.layers.Layer):
    """A GPT-2 over flat tokens, trained completely, by low-rank updates, or not at all.

    All matrix products have rank 2 and are followed by their bias; query, key and value are one product.
    Normalization and GELU have closed-form gradients.

    Args:
        backbone: a built `keras_hub.models.GPT2Backbone`; its weights are shared, not copied.
        trainable: train everything, "lora" (six kernels of each layer) or nothing.
        control_ids: tokens whose embeddings are trained even if the others are not.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
    """

    def __init__(self, backbone: Any, trainable: Trainable = WHOLE, control_ids: Sequence[int] = ()) -> None:
        super().__init__(name="language_layers")
        self.backbone = backbone
        self.hidden: int = backbone.hidden_dim
        self.layers: int = backbone.num_layers
        self.key_heads: int = backbone.num_heads
        self.depth: int = self.hidden // self.key_heads
        self.vocabulary: int = backbone.vocabulary_size
        self.max_positions: int = backbone.max_sequence_length
        check_fits(trainable, self.layers, self.hidden, self.max_positions)
        whole = trainable == WHOLE
        set_trainable(backbone, whole)
        self.token_rows = None if whole else TokenRows(control_ids, self.vocabulary, self.hidden)
        self.updates = [
            _LayerUpdates(backbone, trainable.size) if trainable.method == "lora" else None
            for _ in range(self.layers)
        ]
        self.built = True

    def embed(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Token embeddings, without positions: int32 [batch, time] -> float32 [batch, time, hidden]."""
        embeddings = tf.gather(tf.convert_to_tensor(self.backbone.token_embedding.embeddings), token_ids)
        return embeddings if self.token_rows is None else embeddings + self.token_rows.embed(token_ids)

    def states(
        self, embeddings: tf.Tensor, prefix: Prefix | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Last hidden states; each token sees the prefix, itself and those before it.

        Args:
            embeddings: float32 [batch, time, hidden], without positions; rows are padded on the right.
            prefix: keys and values before the text, without positions.
            training: whether dropout is active.

        Returns:
            float32 [batch, time, hidden], normalized.
        """
        batch, time = tf.shape(embeddings)[0], tf.shape(embeddings)[1]
        positions = tf.convert_to_tensor(self.backbone.position_embedding.position_embeddings)[:time]
        states = self.backbone.embeddings_dropout(embeddings + positions, training=training)
        flat = tf.cast(tf.reshape(states, [-1, self.hidden]), self.compute_dtype)  # [batch * time, hidden]
        bias = _causal_bias(time, prefix)  # [time, prefix + time]
        for number, layer in enumerate(self.backbone.transformer_layers):
            pair = None if prefix is None else (prefix.keys[number], prefix.values[number])
            flat += self._attend(flat, [batch, time], number, pair, bias, training)
            inner = _normalized(flat, layer._feedforward_layer_norm)
            inner = _product(inner, layer._feedforward_intermediate_dense, self.updates[number], "expand")
            inner = _activated(inner, layer._feedforward_intermediate_dense.activation)
            inner = _product(inner, layer._feedforward_output_dense, self.updates[number], "contract")
            flat += layer._feedforward_dropout(inner, training=training)
        last = _normalized(flat, self.backbone.layer_norm)
        return tf.ensure_shape(tf.reshape(tf.cast(last, tf.float32), tf.shape(embeddings)), embeddings.shape)

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """Logits of the next token: float32 [..., hidden] -> float32 [..., vocabulary]."""
        flat = tf.cast(tf.reshape(states, [-1, self.hidden]), self.compute_dtype)
        table = tf.cast(tf.convert_to_tensor(self.backbone.token_embedding.embeddings), flat.dtype)
        logits = tf.matmul(flat, table, transpose_b=True)
        if self.token_rows is not None:
            logits += self.token_rows.logits(flat)
        return tf.reshape(tf.cast(logits, tf.float32), tf.concat([tf.shape(states)[:-1], [-1]], 0))

    @contextmanager
    def merged(self) -> Iterator[Any]:
        """The backbone with all trained additions merged into its weights, while the context lasts."""
        values = list(self._merged_values())
        with assigned(values):
            yield self.backbone

    def _merged_values(self) -> Iterator[tuple[Any, tf.Tensor]]:
        if self.token_rows is not None:
            table = self.backbone.token_embedding.embeddings
            yield table, self.token_rows.added_to(tf.convert_to_tensor(table))
        for layer, updates in zip(self.backbone.transformer_layers, self.updates, strict=True):
            for name, dense in _kernels(layer).items() if updates is not None else ():
                update = getattr(updates, name)
                flat = tf.reshape(dense.kernel, [update.down.shape[0], -1])
                yield dense.kernel, flat + update.added()

    def _attend(
        self,
        flat: tf.Tensor,
        rows: list[Any],
        number: int,
        prefix: tuple[Any, Any] | None,
        bias: tf.Tensor,
        training: bool | None,
    ) -> tf.Tensor:
        """Causal self-attention: [batch * time, hidden] -> the same."""
        layer, updates = self.backbone.transformer_layers[number], self.updates[number]
        attention = layer._self_attention_layer
        normal = _normalized(flat, layer._self_attention_layer_norm)
        fused = _fused(normal, attention, updates)  # [batch * time, 3 * hidden]
        fused = tf.reshape(fused, [*rows, 3, self.key_heads, self.depth])
        query, key, value = tf.unstack(tf.transpose(fused, [2, 0, 3, 1, 4]), num=3)
        if prefix is not None:  # [batch, heads, prefix + time, depth]
            key, value = (
                tf.concat([tf.cast(own, flat.dtype), of_text], axis=2)
                for own, of_text in zip(prefix, (key, value), strict=True)
            )
        scores = tf.matmul(query * self.depth**-0.5, key, transpose_b=True)
        weights = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32) + bias), flat.dtype)
        weights = attention._dropout_layer(weights, training=training)
        mixed = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        mixed = tf.reshape(mixed, [-1, self.hidden])
        mixed = _product(mixed, attention._output_dense, updates, "project")
        return layer._self_attention_dropout(mixed, training=training)


class _LayerUpdates(keras.layers.Layer):
    """Low-rank updates of the six kernels of one layer."""

    def __init__(self, backbone: Any, rank: int) -> None:
        super().__init__(name="updates")
        hidden, wide = backbone.hidden_dim, backbone.intermediate_dim
        for name in _kernels(backbone.transformer_layers[0]):
            inputs = wide if name == "contract" else hidden
            outputs = wide if name == "expand" else hidden
            setattr(self, name, LowRank(inputs, outputs, rank, name))
        self.built = True


def _kernels(layer: Any) -> dict[str, Any]:
    attention = layer._self_attention_layer
    return {
        "query": attention._query_dense,
        "key": attention._key_dense,
        "value": attention._value_dense,
        "project": attention._output_dense,
        "expand": layer._feedforward_intermediate_dense,
        "contract": layer._feedforward_output_dense,
    }


def _causal_bias(time: Any, prefix: Prefix | None) -> tf.Tensor:
    causal = _MASKED * (1.0 - tf.linalg.band_part(tf.ones([time, time]), -1, 0))
    if prefix is None:
        return causal
    seen = tf.cast(tf.convert_to_tensor(prefix.bias), tf.float32)
    return tf.concat([tf.fill([time, tf.shape(prefix.keys[0])[2]], seen), causal], axis=1)


def _fused(flat: tf.Tensor, attention: Any, updates: Any) -> tf.Tensor:
    """Query, key and value side by side: [M, hidden] -> [M, 3 * hidden]."""
    hidden = flat.shape[-1]
    parts = attention._query_dense, attention._key_dense, attention._value_dense
    kernel = tf.concat([tf.reshape(part.kernel, [hidden, hidden]) for part in parts], axis=1)
    bias = tf.concat([tf.reshape(part.bias, [hidden]) for part in parts], axis=0)
    fused = tf.nn.bias_add(tf.matmul(flat, tf.cast(kernel, flat.dtype)), tf.cast(bias, flat.dtype))
    if updates is None:
        return fused
    return fused + tf.concat([getattr(updates, x).update(flat) for x in ("query", "key", "value")], axis=1)


def _product(flat: tf.Tensor, dense: Any, updates: Any, name: str) -> tf.Tensor:
    """[M, in] -> [M, out], by a dense layer whose kernel may be split by heads."""
    bias = tf.reshape(dense.bias, [-1])
    kernel = tf.reshape(dense.kernel, [flat.shape[-1], bias.shape[0]])
    product = tf.nn.bias_add(tf.matmul(flat, tf.cast(kernel, flat.dtype)), tf.cast(bias, flat.dtype))
    return product if updates is None else product + getattr(updates, name).update(flat)


def _normalized(flat: tf.Tensor, norm: Any) -> tf.Tensor:
    scale, offset = (tf.convert_to_tensor(weight) for weight in (norm.gamma, norm.beta))
    normal = layer_norm(tf.cast(flat, tf.float32), scale, offset, tf.constant(norm.epsilon))
    return tf.cast(normal, flat.dtype)


def _activated(values: tf.Tensor, activation: Any) -> tf.Tensor:
    return tanh_gelu(values) if activation is ACTIVATIONS["gelu_new"] else activation(values)
