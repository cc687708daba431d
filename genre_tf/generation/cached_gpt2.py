"""GPT-2 a few tokens at a time: prefill once, then steps with a cache, in portable operations only.

KerasHub's own cache uses `slice_update`, an XLA operation that TensorFlow Serving rejects. Here the prompt's
keys and values stay as the prefill left them, shared by all samples of a row; those of written tokens go into
a cache of fixed size (`cache_attention.py`).
"""

from typing import Any

import tensorflow as tf

from genre_tf.backbones.causal_prefix import Prefix
from genre_tf.generation import cache_attention
from genre_tf.generation.cached_decoder import PromptCache, WrittenCache, prompt_positions
from genre_tf.generation.kernels import Kernel, few_rows
from genre_tf.generation.sampling import IMPOSSIBLE


class CachedGpt2(tf.Module):
    """The weights of a KerasHub GPT-2 in the layout that decodes fastest; it computes the same function.

    Query, key and value are one matrix. Each normalization's scale and shift are merged into the product
    after it, and everything added to the states has mean 0, so that a normalization is a division by the root
    mean square (Ashkboos et al. 2024, "SliceGPT", section 3.1). Kernels are stored as [inputs, outputs] and
    biases are added separately: without oneDNN, as on processors without AVX-512, a few rows times a
    transposed kernel take up to eight times longer, and one row in a product fused with its bias up to six
    times.

    These are separate variables, so that a served graph does not convert the layout at each request.
    `refresh` updates them to the backbone's current weights.

    Args:
        backbone: a built `keras_hub.models.GPT2Backbone`.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.heads: int = backbone.num_heads
        self.hidden: int = backbone.hidden_dim
        self.max_positions: int = backbone.max_sequence_length
        self.epsilon: float = backbone.layer_norm.epsilon
        self._activation = backbone.transformer_layers[0]._feedforward_intermediate_dense.activation
        # Inside a function, the backbone is not tracked, so that an export holds each weight once.
        self._read = lambda: (
            _outer_weights(backbone),
            [_layer_weights(x) for x in backbone.transformer_layers],
        )
        outer, layers = self._read()
        self.outer = _variables(outer)
        self.layers = [_variables(layer) for layer in layers]

    def refresh(self) -> None:
        """Copy the backbone's current weights."""
        outer, layers = self._read()
        for ours, theirs in zip([self.outer, *self.layers], [outer, *layers], strict=True):
            for name, variable in ours.items():
                variable.assign(theirs[name])

    def embed(self, token_ids: Any) -> Any:
        """See `CachedDecoder`."""
        return tf.gather(self.outer["tokens"], token_ids)

    def prefill(self, embeddings: Any, mask: Any, prefix: Prefix | None = None) -> tuple[Any, PromptCache]:
        """See `CachedDecoder`."""
        batch, time = tf.shape(mask)[0], tf.shape(mask)[1]
        bias = tf.where(mask, 0.0, IMPOSSIBLE)[:, None, None, :]  # [batch, 1, 1, time]
        causal = IMPOSSIBLE * (1.0 - tf.linalg.band_part(tf.ones([time, time]), -1, 0))
        if prefix is not None:
            size = tf.shape(prefix.keys[0])[2]
            seen = tf.fill([batch, 1, 1, size], tf.convert_to_tensor(prefix.bias))
            bias = tf.concat([seen, bias], axis=3)  # [batch, 1, 1, prefix + time]
            causal = tf.pad(causal, [[0, 0], [size, 0]])
        length = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        cache = PromptCache([], [], bias, length)
        states = self._enter(embeddings, prompt_positions(mask))  # [batch * time, hidden]
        few = few_rows(states)
        for index, weights in enumerate(self.layers):
            fused = self._query_key_value(weights, states, few)
            fused = tf.reshape(fused, [batch, time, 3, self.heads, self.hidden // self.heads])
            # 3 x [batch, heads, time, depth]
            query, key, value = tf.unstack(tf.transpose(fused, [2, 0, 3, 1, 4]), num=3)
            if prefix is not None:
                key = tf.concat([prefix.keys[index], key], axis=2)
                value = tf.concat([prefix.values[index], value], axis=2)
            score = tf.matmul(query, key, transpose_b=True) + tf.maximum(causal + bias, IMPOSSIBLE)
            mixed = tf.matmul(tf.nn.softmax(score), value)  # [batch, heads, time, depth]
            mixed = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, self.hidden])  # [batch * time, hidden]
            states = self._rest_of_layer(weights, states, mixed, few)
            cache.keys.append(key)
            cache.values.append(value)
        last = tf.reshape(states, [batch, time, self.hidden])[:, -1]  # [batch, hidden]
        return self._logits(last, few_rows(last)), cache

    def read(
        self, embeddings: Any, positions: Any, prompt: PromptCache, written: WrittenCache
    ) -> tuple[Any, WrittenCache]:
        """See `CachedDecoder`."""
        where = cache_attention.places(positions - prompt.length[:, None, None], written.keys[0])
        grown = WrittenCache([], [])
        states = self._enter(embeddings, positions)  # [batch * samples * columns, hidden]
        few = few_rows(states)
        for index, weights in enumerate(self.layers):
            query, key, value = tf.split(self._query_key_value(weights, states, few), 3, axis=1)
            keys = cache_attention.write(written.keys[index], key, where)
            values = cache_attention.write(written.values[index], value, where)
            mixed = cache_attention.attend(query, prompt, index, keys, values, where)
            states = self._rest_of_layer(weights, states, mixed, few)
            grown.keys.append(keys)
            grown.values.append(values)
        return self._logits(states, few), grown

    def nothing_written(self, batch: Any, samples: int, room: int) -> WrittenCache:
        """See `CachedDecoder`."""
        new = (batch, self.heads, samples, room, self.hidden // self.heads)
        keys, values = ([cache_attention.new_cache(*new) for _ in self.layers] for _ in range(2))
        return WrittenCache(keys, values)

    def _enter(self, embeddings: Any, positions: Any) -> Any:
        """States [all columns of all rows, hidden], of mean 0."""
        embeddings -= tf.reduce_mean(embeddings, axis=-1, keepdims=True)
        return tf.reshape(embeddings + tf.gather(self.outer["positions"], positions), [-1, self.hidden])

    def _query_key_value(self, weights: dict[str, Any], states: Any, few: Any) -> Any:
        """float32 [rows, 3 * hidden]; the query is scaled."""
        return _product(self._norm(states), weights, "fused", few)

    def _rest_of_layer(self, weights: dict[str, Any], states: Any, mixed: Any, few: Any) -> Any:
        """Everything in a layer after attention; `mixed` float32 [rows, hidden]."""
        states += _product(mixed, weights, "project", few)
        inner = self._activation(_product(self._norm(states), weights, "expand", few))
        return states + _product(inner, weights, "contract", few)

    def _norm(self, states: Any) -> Any:
        """Layer normalization of states of mean 0, without scale and shift."""
        return states * tf.math.rsqrt(tf.reduce_mean(states * states, -1, keepdims=True) + self.epsilon)

    def _logits(self, states: Any, few: Any) -> Any:
        return _product(self._norm(states), self.outer, "output", few)


def _product(states: Any, weights: dict[str, Any], name: str, few: Any) -> Any:
    return weights[f"{name}_kernel"](states, few) + weights[f"{name}_bias"]


def _variables(values: dict[str, Any]) -> dict[str, Any]:
    kernels = {name: Kernel(value, name) for name, value in values.items() if name.endswith("_kernel")}
    others = {
        name: tf.Variable(value, trainable=False, name=name)
        for name, value in values.items()
        if name not in kernels
    }
    return others | kernels


def _outer_weights(backbone: Any) -> dict[str, Any]:
    tokens = tf.convert_to_tensor(backbone.token_embedding.embeddings)
    kernel, bias = _behind_norm(backbone.layer_norm, tf.transpose(tokens), tf.zeros(tokens.shape[0]))
    return {
        "tokens": tokens,
        "positions": _centered(tf.convert_to_tensor(backbone.position_embedding.position_embeddings)),
        "output_kernel": kernel,  # [hidden, vocabulary]
        "output_bias": bias,
    }


def _layer_weights(layer: Any) -> dict[str, Any]:
    attention = layer._self_attention_layer
    hidden = attention._query_dense.kernel.shape[0]
    scale = float(attention._key_dim) ** -0.5  # scale of the scores, merged into the query
    parts = (attention._query_dense, scale), (attention._key_dense, 1.0), (attention._value_dense, 1.0)
    fused = tf.concat([tf.reshape(part.kernel, [hidden, hidden]) * factor for part, factor in parts], axis=1)
    fused_bias = tf.concat([tf.reshape(part.bias, [hidden]) * factor for part, factor in parts], axis=0)
    expand, contract = layer._feedforward_intermediate_dense, layer._feedforward_output_dense
    weights = {
        "fused": _behind_norm(layer._self_attention_layer_norm, fused, fused_bias),  # [hidden, 3 * hidden]
        "project": _before_sum(tf.reshape(attention._output_dense.kernel, [hidden, hidden]),
                               attention._output_dense.bias),
        "expand": _behind_norm(layer._feedforward_layer_norm, expand.kernel, expand.bias),
        "contract": _before_sum(contract.kernel, contract.bias),  # [intermediate, hidden]
    }  # fmt: skip
    kernels = {f"{name}_kernel": kernel for name, (kernel, _) in weights.items()}
    return kernels | {f"{name}_bias": bias for name, (_, bias) in weights.items()}


def _behind_norm(norm: Any, kernel: Any, bias: Any) -> tuple[Any, Any]:
    """A product with its normalization's scale and shift merged in."""
    return norm.gamma[:, None] * kernel, bias + tf.linalg.matvec(kernel, norm.beta, transpose_a=True)


def _before_sum(kernel: Any, bias: Any) -> tuple[Any, Any]:
    """A product whose results have mean 0."""
    return _centered(tf.convert_to_tensor(kernel)), _centered(tf.convert_to_tensor(bias))


def _centered(values: Any) -> Any:
    return values - tf.reduce_mean(values, axis=-1, keepdims=True)
