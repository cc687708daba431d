"""Llama for training: KerasHub's weights and results, computed in fewer passes over memory."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from genre_tf.backbones.causal_prefix import Prefix
from genre_tf.backbones.low_rank import LowRank, TokenRows, assigned
from genre_tf.backbones.rotary import rotary_turns, rotated
from genre_tf.backbones.trainable import Trainable
from genre_tf.errors import InputError
from genre_tf.layers.block import set_trainable
from genre_tf.layers.elementwise import gated_silu, rms_norm

MASKED = -1e9  # far below any attention score, and finite


class LlamaLayers(keras.layers.Layer):
    """A Llama over flat tokens, trained completely, by low-rank updates, or not at all.

    All matrix products with weights have rank 2; normalization and gates have closed-form gradients, and the
    query heads of one key head share its keys without copying them.

    Args:
        backbone: from `build_llama`; its weights are shared, not copied.
        trainable: train everything, "lora" (seven kernels of each layer) or nothing.
        control_ids: tokens whose embeddings are trained even if the others are not.

    Raises:
        InputError: something else should be trained, or the rank is as large as the kernel it updates.

    Source: Touvron et al., "LLaMA", 2023; grouped keys: Ainslie et al., "GQA", 2023.
    """

    def __init__(self, backbone: Any, trainable: Trainable, control_ids: Sequence[int] = ()) -> None:
        super().__init__(name="language_layers")
        _check_trainable(trainable, backbone)
        self.backbone = backbone
        self.hidden: int = backbone.hidden_dim
        self.layers: int = backbone.num_layers
        self.heads: int = backbone.num_query_heads
        self.key_heads: int = backbone.num_key_value_heads
        self.depth: int = self.hidden // self.heads
        self.vocabulary: int = backbone.vocabulary_size
        self.max_positions: int = backbone.max_sequence_length
        whole = trainable == Trainable()
        set_trainable(backbone, whole)
        self.token_rows = None if whole else TokenRows(control_ids, self.vocabulary, self.hidden)
        self.updates = [
            _LayerUpdates(layer, trainable.size)
            for layer in (backbone.transformer_layers if trainable.method == "lora" else ())
        ]
        self.built = True

    def embed(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Token embeddings: int32 [batch, time] -> float32 [batch, time, hidden]."""
        embeddings = tf.gather(tf.convert_to_tensor(self.backbone.token_embedding.embeddings), token_ids)
        return embeddings if self.token_rows is None else embeddings + self.token_rows.embed(token_ids)

    def states(
        self, embeddings: tf.Tensor, prefix: Prefix | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """Last hidden states; each token sees the prefix, itself and those before it.

        Args:
            embeddings: float32 [batch, time, hidden]; rows are padded on the right, positions count from 0.
            prefix: keys and values before the text, without positions.
            training: has no effect, because there is no dropout.

        Returns:
            float32 [batch, time, hidden], normalized.
        """
        batch, time = tf.shape(embeddings)[0], tf.shape(embeddings)[1]
        flat = tf.reshape(embeddings, [-1, self.hidden])  # [batch * time, hidden]
        flat = tf.cast(flat, self.compute_dtype)
        turns = tuple(
            tf.cast(turn, flat.dtype)[:, None]  # [time, 1, depth]: the head axis comes after the time axis
            for turn in rotary_turns(tf.range(time), self.depth, self.backbone.rope_max_wavelength)
        )
        bias = _causal_bias(time, prefix)  # [time, prefix + time]
        for number, layer in enumerate(self.backbone.transformer_layers):
            product = _Products(self.updates[number] if self.updates else None)
            pair = None if prefix is None else (prefix.keys[number], prefix.values[number])
            flat += self._attend(flat, [batch, time], layer, product, turns, bias, pair)
            normal = _normalized(flat, layer._feedforward_layernorm)
            gate = product(normal, layer._feedforward_gate_dense, "gate")
            wide = gated_silu(gate, product(normal, layer._feedforward_intermediate_dense, "expand"))
            flat += product(wide, layer._feedforward_output_dense, "contract")
        last = tf.cast(_normalized(flat, self.backbone.layer_norm), tf.float32)
        return tf.ensure_shape(tf.reshape(last, tf.shape(embeddings)), embeddings.shape)

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
        values = [(self.backbone.token_embedding.embeddings, self.merged_embeddings())]
        for layer, kernels in zip(self.backbone.transformer_layers, self.merged_kernels(), strict=True):
            values += [(dense.kernel, kernels[name]) for name, dense in _denses(layer).items()]
        with assigned(values):
            yield self.backbone

    def merged_embeddings(self) -> tf.Tensor:
        """The embeddings with their trained additions: float32 [vocabulary, hidden]."""
        table = tf.convert_to_tensor(self.backbone.token_embedding.embeddings)
        return table if self.token_rows is None else self.token_rows.added_to(table)

    def merged_kernels(self) -> Iterator[dict[str, tf.Tensor]]:
        """Kernels of each layer with their trained updates: name -> float32 [inputs, outputs]."""
        for number, layer in enumerate(self.backbone.transformer_layers):
            updates = self.updates[number] if self.updates else None
            flat = {name: _flat_kernel(name, dense) for name, dense in _denses(layer).items()}
            yield {
                name: kernel if updates is None else kernel + getattr(updates, name).added()
                for name, kernel in flat.items()
            }

    def _attend(
        self,
        flat: tf.Tensor,
        rows: list[Any],
        layer: Any,
        product: "_Products",
        turns: tuple[Any, ...],
        bias: tf.Tensor,
        prefix: tuple[Any, Any] | None,
    ) -> tf.Tensor:
        """Causal self-attention: [batch * time, hidden] -> the same."""
        groups, attention = self.heads // self.key_heads, layer._self_attention_layer
        normal = _normalized(flat, layer._self_attention_layernorm)
        query, key, value = (
            tf.reshape(product(normal, dense, name), [*rows, -1, self.depth])  # [batch, time, heads, depth]
            for name, dense in (
                ("query", attention._query_dense),
                ("key", attention._key_dense),
                ("value", attention._value_dense),
            )
        )
        query = rotated(query * self.depth**-0.5, turns)
        query = tf.reshape(query, [*rows, self.key_heads, groups, self.depth])
        # The query heads of a key head, one after another: [batch, key heads, groups * time, depth].
        query = tf.reshape(tf.transpose(query, [0, 2, 3, 1, 4]), [rows[0], self.key_heads, -1, self.depth])
        key, value = tf.transpose(rotated(key, turns), [0, 2, 1, 3]), tf.transpose(value, [0, 2, 1, 3])
        if prefix is not None:  # [batch, key heads, prefix + time, depth]
            key, value = (
                tf.concat([tf.cast(own, normal.dtype), of_text], axis=2)
                for own, of_text in zip(prefix, (key, value), strict=True)
            )
        scores = tf.matmul(query, key, transpose_b=True)
        scores = tf.reshape(scores, [rows[0], self.heads, rows[1], -1])  # [batch, heads, time, prefix + time]
        weights = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32) + bias), normal.dtype)
        mixed = tf.matmul(tf.reshape(weights, [rows[0], self.key_heads, groups * rows[1], -1]), value)
        mixed = tf.reshape(mixed, [rows[0], self.heads, rows[1], self.depth])
        mixed = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, self.hidden])
        return product(mixed, attention._output_dense, "project")


class _LayerUpdates(keras.layers.Layer):
    """Low-rank updates of the seven kernels of one layer."""

    def __init__(self, layer: Any, rank: int) -> None:
        super().__init__(name="updates")
        for name, dense in _denses(layer).items():
            inputs, outputs = _flat_shape(name, dense)
            setattr(self, name, LowRank(inputs, outputs, rank, name))
        self.built = True


class _Products:
    """Products with the kernels of one layer, with their updates if there are any."""

    def __init__(self, updates: Any) -> None:
        self.updates = updates

    def __call__(self, flat: tf.Tensor, dense: Any, name: str) -> tf.Tensor:
        """[M, inputs] -> [M, outputs]."""
        product = tf.matmul(flat, tf.cast(_flat_kernel(name, dense), flat.dtype))
        return product if self.updates is None else product + getattr(self.updates, name).update(flat)


def _denses(layer: Any) -> dict[str, Any]:
    attention = layer._self_attention_layer
    return {
        "query": attention._query_dense,
        "key": attention._key_dense,
        "value": attention._value_dense,
        "project": attention._output_dense,
        "gate": layer._feedforward_gate_dense,
        "expand": layer._feedforward_intermediate_dense,
        "contract": layer._feedforward_output_dense,
    }


def _flat_shape(name: str, dense: Any) -> tuple[int, int]:
    """Inputs and outputs of a kernel that may be split by heads, on the side that the heads are on."""
    shape = tuple(dense.kernel.shape)
    joined = 2 if name == "project" else 1
    return math.prod(shape[:joined]), math.prod(shape[joined:])


def _flat_kernel(name: str, dense: Any) -> tf.Tensor:
    return tf.reshape(dense.kernel, _flat_shape(name, dense))


def _causal_bias(time: Any, prefix: Prefix | None) -> tf.Tensor:
    causal = MASKED * (1.0 - tf.linalg.band_part(tf.ones([time, time]), -1, 0))
    if prefix is None:
        return causal
    seen = tf.fill([time, tf.shape(prefix.keys[0])[2]], tf.convert_to_tensor(prefix.bias, tf.float32))
    return tf.concat([seen, causal], axis=1)


def _normalized(flat: tf.Tensor, norm: Any) -> tf.Tensor:
    scale = tf.convert_to_tensor(norm.scale)
    return tf.cast(rms_norm(tf.cast(flat, tf.float32), scale, tf.constant(norm.epsilon)), flat.dtype)


def _check_trainable(trainable: Trainable, backbone: Any) -> None:
    whole = trainable.method == "layers" and trainable.last in (None, 0)
    if not whole and (trainable.method != "lora" or trainable.last is not None):
        raise InputError("a Llama's trainable must be none, lora R (such as lora 16) or all")
    least = min(backbone.hidden_dim, backbone.intermediate_dim)
    if trainable.size > least:
        raise InputError(
            f"lora {trainable.size} is too large for this backbone: at most {least}; 4 to 64 are usual."
        )
