"""Llama a few tokens at a time: prefill once, then steps with a cache, in portable operations only."""

from typing import Any

import tensorflow as tf

from genre_tf.backbones.causal_prefix import Prefix
from genre_tf.backbones.llama_layers import LlamaLayers
from genre_tf.backbones.rotary import rotary_turns, rotated
from genre_tf.generation import cache_attention
from genre_tf.generation.cached_decoder import PromptCache, WrittenCache, prompt_positions
from genre_tf.generation.kernels import Kernel, few_rows
from genre_tf.generation.sampling import IMPOSSIBLE


class CachedLlama(tf.Module):
    """The weights of a Llama in the layout that decodes fastest.

    Query, key and value are one matrix, gate and up projection another, and the output matrix is transposed.
    Low-rank updates are merged, and the scales of norms are merged into the matrices after them.

    These are separate variables, so that a served graph does not convert the layout at each request.
    `refresh` updates them to the current weights of the layers.

    Args:
        layers: layers of the model, trained or not.
    """

    def __init__(self, layers: LlamaLayers) -> None:
        super().__init__()
        self.hidden, self.depth = layers.hidden, layers.depth
        self.heads, self.key_heads = layers.heads, layers.key_heads
        self.max_positions = layers.max_positions
        self.epsilon: float = layers.backbone.layer_norm.epsilon
        self._rotary_base: float = layers.backbone.rope_max_wavelength
        # Inside a function, the layers are not tracked, so that an export holds each weight once.
        self._read = lambda: [_outer_weights(layers), *_layer_weights(layers)]
        self.outer, *self.layers = [
            {name: _variable(name, value) for name, value in weights.items()} for weights in self._read()
        ]

    def refresh(self) -> None:
        """Copy the layers' current weights."""
        for ours, theirs in zip([self.outer, *self.layers], self._read(), strict=True):
            for name, variable in ours.items():
                variable.assign(theirs[name])

    def embed(self, token_ids: Any) -> Any:
        """See `CachedDecoder`."""
        return tf.gather(self.outer["tokens"], token_ids)

    def prefill(self, embeddings: Any, mask: Any, prefix: Prefix | None = None) -> tuple[Any, PromptCache]:
        """See `CachedDecoder`; the prefix is in the first columns of the cache."""
        batch, time = tf.shape(mask)[0], tf.shape(mask)[1]
        bias = tf.where(mask, 0.0, IMPOSSIBLE)[:, None, None, :]  # [batch, 1, 1, time]
        causal = IMPOSSIBLE * (1.0 - tf.linalg.band_part(tf.ones([time, time]), -1, 0))
        if prefix is not None:
            columns = tf.shape(prefix.keys[0])[2]
            seen = tf.fill([batch, 1, 1, columns], tf.convert_to_tensor(prefix.bias))
            bias = tf.concat([seen, bias], axis=3)  # [batch, 1, 1, prefix + time]
            causal = tf.pad(causal, [[0, 0], [columns, 0]])
        cache = PromptCache([], [], bias, tf.reduce_sum(tf.cast(mask, tf.int32), axis=1))
        scores_bias = tf.maximum(causal + bias, IMPOSSIBLE)[:, :, None]  # [batch, 1, 1, time, prefix + time]
        turns = self._turns(prompt_positions(mask))
        states = tf.reshape(embeddings, [-1, self.hidden])  # [batch * time, hidden]
        few = few_rows(states)
        for index, weights in enumerate(self.layers):
            query, key, value = self._query_key_value(weights, states, few, turns, [batch, time])
            key, value = (tf.transpose(part, [0, 2, 1, 3]) for part in (key, value))
            if prefix is not None:
                key = tf.concat([prefix.keys[index], key], axis=2)
                value = tf.concat([prefix.values[index], value], axis=2)
            query = tf.transpose(query, [0, 2, 3, 1, 4])  # [batch, key heads, groups, time, depth]
            score = _grouped(query, key, transpose_b=True) + scores_bias
            mixed = _grouped(tf.nn.softmax(score), value)  # [batch, key heads, groups, time, depth]
            states = self._rest_of_layer(weights, states, few, tf.transpose(mixed, [0, 3, 1, 2, 4]))
            cache.keys.append(key)
            cache.values.append(value)
        last = tf.reshape(states, [batch, time, self.hidden])[:, -1]  # [batch, hidden]
        return self._logits(last, few_rows(last)), cache

    def read(
        self, embeddings: Any, positions: Any, prompt: PromptCache, written: WrittenCache
    ) -> tuple[Any, WrittenCache]:
        """See `CachedDecoder`."""
        at = positions - prompt.length[:, None, None]
        where = cache_attention.places(at, written.keys[0], self.heads // self.key_heads)
        positions = tf.reshape(positions, [tf.shape(positions)[0], -1])  # [batch, samples * columns]
        turns, rows = self._turns(positions), tf.unstack(tf.shape(positions))
        grown = WrittenCache([], [])
        states = tf.reshape(embeddings, [-1, self.hidden])  # [batch * samples * columns, hidden]
        few = few_rows(states)
        for index, weights in enumerate(self.layers):
            query, key, value = self._query_key_value(weights, states, few, turns, rows)
            keys = cache_attention.write(written.keys[index], key, where)
            values = cache_attention.write(written.values[index], value, where)
            mixed = cache_attention.attend(query, prompt, index, keys, values, where)
            states = self._rest_of_layer(weights, states, few, mixed)
            grown.keys.append(keys)
            grown.values.append(values)
        return self._logits(states, few), grown

    def nothing_written(self, batch: Any, samples: int, room: int) -> WrittenCache:
        """See `CachedDecoder`."""
        new = (batch, self.key_heads, samples, room, self.depth)
        keys, values = ([cache_attention.new_cache(*new) for _ in self.layers] for _ in range(2))
        return WrittenCache(keys, values)

    def _turns(self, positions: Any) -> tuple[Any, ...]:
        """Rotations of all heads at each position: two of float32 [batch, columns, 1, depth]."""
        turns = rotary_turns(positions, self.depth, self._rotary_base)
        return tuple(turn[:, :, None] for turn in turns)

    def _query_key_value(
        self, weights: dict[str, Any], states: Any, few: Any, turns: tuple[Any, ...], rows: list[Any]
    ) -> tuple[Any, Any, Any]:
        """Query float32 [batch, columns, key heads, groups, depth], scaled; the others without groups."""
        fused = weights["fused"](self._norm(states), few)
        fused = tf.reshape(fused, [*rows, self.heads + 2 * self.key_heads, self.depth])
        turned, value = tf.split(fused, [self.heads + self.key_heads, self.key_heads], axis=2)
        query, key = tf.split(rotated(turned, turns), [self.heads, self.key_heads], axis=2)
        groups = self.heads // self.key_heads
        return tf.reshape(query, [*rows, self.key_heads, groups, self.depth]), key, value

    def _rest_of_layer(self, weights: dict[str, Any], states: Any, few: Any, mixed: Any) -> Any:
        states = states + weights["project"](tf.reshape(mixed, [-1, self.hidden]), few)
        gate, wide = tf.split(weights["expand"](self._norm(states), few), 2, axis=1)
        return states + weights["contract"](gate * tf.sigmoid(gate) * wide, few)

    def _norm(self, states: Any) -> Any:
        """Normalized without a scale; the scale is merged into the next matrix."""
        mean_square = tf.reduce_mean(tf.square(states), axis=-1, keepdims=True)
        return states * tf.math.rsqrt(mean_square + self.epsilon)

    def _logits(self, states: Any, few: Any) -> Any:
        return self.outer["output"](self._norm(states), few)


def _variable(name: str, value: Any) -> Any:
    """Whether this is a kernel; everything except the embeddings is."""
    return tf.Variable(value, trainable=False, name=name) if name == "tokens" else Kernel(value, name)


def _grouped(left: Any, right: Any, transpose_b: bool = False) -> Any:
    """Products of every group with the tensor that its key head holds once.

    Args:
        left: float32 [batch, key heads, a, b, x].
        right: float32 [batch, key heads, x, y], or [batch, key heads, y, x] if transposed.

    Returns:
        float32 [batch, key heads, a, b, y].
    """
    shape = tf.shape(left)
    flat = tf.reshape(left, [shape[0], shape[1], shape[2] * shape[3], shape[4]])
    product = tf.matmul(flat, right, transpose_b=transpose_b)
    return tf.reshape(product, tf.concat([shape[:4], tf.shape(product)[-1:]], 0))


def _outer_weights(layers: LlamaLayers) -> dict[str, Any]:
    tokens = layers.merged_embeddings()
    scale = tf.convert_to_tensor(layers.backbone.layer_norm.scale)
    return {"tokens": tokens, "output": tf.transpose(tokens * scale)}  # output: [hidden, vocabulary]


def _layer_weights(layers: LlamaLayers) -> list[dict[str, Any]]:
    found = []
    for layer, kernels in zip(layers.backbone.transformer_layers, layers.merged_kernels(), strict=True):
        attention, feedforward = (
            tf.convert_to_tensor(norm.scale)[:, None]
            for norm in (layer._self_attention_layernorm, layer._feedforward_layernorm)
        )
        query = kernels["query"] * layers.depth**-0.5  # the scale of the scores
        found.append(
            {
                "fused": attention * tf.concat([query, kernels["key"], kernels["value"]], axis=1),
                "project": kernels["project"],
                "expand": feedforward * tf.concat([kernels["gate"], kernels["expand"]], axis=1),
                "contract": kernels["contract"],
            }
        )
    return found
