"""GPT-2 one token at a time: prefill once, then steps over a cache, in portable TensorFlow operations only.

KerasHub's own cache is written with `slice_update`, an XLA operation that TensorFlow Serving refuses. Here
the prompt's keys and values stay as the prefill left them, shared by all samples of a row, and only those of
the written tokens grow, by `concat`.
"""

from typing import Any

import tensorflow as tf

from genre_tf.backbones.causal_prefix import Prefix
from genre_tf.generation.cached_decoder import PromptCache, WrittenCache, prompt_positions
from genre_tf.generation.sampling import IMPOSSIBLE


class CachedGpt2(tf.Module):
    """The weights of a KerasHub GPT-2 in the layout that decodes fastest: query, key and value in one matrix,
    the output matrix transposed.

    They are variables of their own, so that a served graph does not lay them out anew at each request and an
    export carries them once. `refresh` takes over what the backbone has learned since.

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
        # Behind a function, the backbone is not tracked: an export then holds each weight once.
        self._read = lambda: (
            _outer_weights(backbone),
            [_layer_weights(x) for x in backbone.transformer_layers],
        )
        outer, layers = self._read()
        self.outer = _variables(outer)
        self.layers = [_variables(layer) for layer in layers]

    def refresh(self) -> None:
        """Copy the backbone's weights as they are now."""
        outer, layers = self._read()
        for ours, theirs in zip([self.outer, *self.layers], [outer, *layers], strict=True):
            for name, variable in ours.items():
                variable.assign(theirs[name])

    def embed(self, token_ids: Any) -> Any:
        """As in `CachedDecoder`."""
        return tf.gather(self.outer["tokens"], token_ids)

    def prefill(self, embeddings: Any, mask: Any, prefix: Prefix | None = None) -> tuple[Any, PromptCache]:
        """As in `CachedDecoder`."""
        batch, time = tf.shape(mask)[0], tf.shape(mask)[1]
        bias = tf.where(mask, 0.0, IMPOSSIBLE)[:, None, None, :]  # [batch, 1, 1, time]
        causal = IMPOSSIBLE * (1.0 - tf.linalg.band_part(tf.ones([time, time]), -1, 0))
        if prefix is not None:
            size = tf.shape(prefix.keys[0])[2]
            seen = tf.fill([batch, 1, 1, size], tf.convert_to_tensor(prefix.bias))
            bias = tf.concat([seen, bias], axis=3)  # [batch, 1, 1, prefix + time]
            causal = tf.pad(causal, [[0, 0], [size, 0]])
        cache = PromptCache([], [], bias)
        embeddings += self._embed_positions(prompt_positions(mask))
        states = tf.reshape(embeddings, [-1, self.hidden])  # [batch * time, hidden]
        for index, weights in enumerate(self.layers):
            query, key, value = self._query_key_value(weights, states, [batch, time])
            if prefix is not None:
                key = tf.concat([prefix.keys[index], key], axis=2)
                value = tf.concat([prefix.values[index], value], axis=2)
            score = tf.matmul(query, key, transpose_b=True) + tf.maximum(causal + bias, IMPOSSIBLE)
            mixed = tf.matmul(tf.nn.softmax(score), value)  # [batch, heads, time, depth]
            states = self._rest_of_layer(weights, states, mixed)
            cache.keys.append(key)
            cache.values.append(value)
        last = tf.reshape(states, [batch, time, self.hidden])[:, -1]  # [batch, hidden]
        return self._logits(last), cache

    def step(
        self, embeddings: Any, positions: Any, prompt: PromptCache, written: WrittenCache
    ) -> tuple[Any, WrittenCache]:
        """As in `CachedDecoder`."""
        batch, samples = tf.shape(embeddings)[0], tf.shape(embeddings)[1]
        grown = WrittenCache([], [])
        embeddings += self._embed_positions(positions)
        states = tf.reshape(embeddings, [-1, self.hidden])  # [batch * samples, hidden]
        for index, weights in enumerate(self.layers):
            query, key, value = self._query_key_value(weights, states, [batch, samples])
            grown.keys.append(tf.concat([written.keys[index], key[:, :, :, None]], axis=3))
            grown.values.append(tf.concat([written.values[index], value[:, :, :, None]], axis=3))
            mixed = _attend(query, prompt, grown, index)  # [batch, heads, samples, depth]
            states = self._rest_of_layer(weights, states, mixed)
        return self._logits(states), grown

    def nothing_written(self, batch: Any, samples: int) -> WrittenCache:
        """As in `CachedDecoder`."""
        empty = tf.zeros([batch, self.heads, samples, 0, self.hidden // self.heads])
        return WrittenCache([empty for _ in self.layers], [empty for _ in self.layers])

    def _embed_positions(self, positions: Any) -> Any:
        return tf.gather(self.outer["positions"], positions)

    def _query_key_value(self, weights: dict[str, Any], states: Any, rows: list[Any]) -> list[Any]:
        """Three times float32 [batch, heads, columns, depth]; the query is scaled."""
        fused = _dense(self._norm(states, weights, "attention"), weights, "fused")
        depth = self.hidden // self.heads
        fused = tf.reshape(fused, [*rows, 3, self.heads, depth])  # [batch, columns, 3, heads, depth]
        return tf.unstack(tf.transpose(fused, [2, 0, 3, 1, 4]), num=3)  # 3 x [batch, heads, columns, depth]

    def _rest_of_layer(self, weights: dict[str, Any], states: Any, mixed: Any) -> Any:
        mixed = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, self.hidden])  # [batch * columns, hidden]
        states = states + _dense(mixed, weights, "project")
        inner = _dense(self._norm(states, weights, "feedforward"), weights, "expand")
        return states + _dense(self._activation(inner), weights, "contract")

    def _norm(self, states: Any, weights: dict[str, Any], name: str) -> Any:
        mean, variance = tf.nn.moments(states, [-1], keepdims=True)
        normal = (states - mean) * tf.math.rsqrt(variance + self.epsilon)
        return normal * weights[f"{name}_scale"] + weights[f"{name}_shift"]

    def _logits(self, states: Any) -> Any:
        return tf.matmul(self._norm(states, self.outer, "last"), self.outer["output"])


def _attend(query: Any, prompt: PromptCache, written: WrittenCache, index: int) -> Any:
    """Attention of one new token per sample to the prompt and to what its sample wrote."""
    past: Any = tf.shape(prompt.bias)[-1]
    to_prompt = tf.matmul(query, prompt.keys[index], transpose_b=True) + prompt.bias
    to_written = tf.matmul(
        query[:, :, :, None], written.keys[index], transpose_b=True
    )  # [.., samples, 1, written]
    weight = tf.nn.softmax(tf.concat([to_prompt, to_written[:, :, :, 0]], axis=-1))
    on_prompt, on_written = tf.split(weight, [past, tf.shape(weight)[-1] - past], axis=-1)
    from_prompt = tf.matmul(on_prompt, prompt.values[index])
    from_written = tf.matmul(on_written[:, :, :, None], written.values[index])
    return from_prompt + from_written[:, :, :, 0]


def _dense(states: Any, weights: dict[str, Any], name: str) -> Any:
    return tf.nn.bias_add(tf.matmul(states, weights[f"{name}_kernel"]), weights[f"{name}_bias"])


def _variables(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tf.Variable(value, trainable=False, name=name) for name, value in values.items()}


def _outer_weights(backbone: Any) -> dict[str, Any]:
    tokens = tf.convert_to_tensor(backbone.token_embedding.embeddings)
    return {
        "tokens": tokens,
        "output": tf.transpose(tokens),  # [hidden, vocabulary]
        "positions": tf.convert_to_tensor(backbone.position_embedding.position_embeddings),
        **_norm_weights(backbone.layer_norm, "last"),
    }


def _layer_weights(layer: Any) -> dict[str, Any]:
    attention = layer._self_attention_layer
    hidden = attention._query_dense.kernel.shape[0]
    scale = float(attention._key_dim) ** -0.5  # of the scores, folded into the query
    parts = (attention._query_dense, scale), (attention._key_dense, 1.0), (attention._value_dense, 1.0)
    kernels = [tf.reshape(part.kernel, [hidden, hidden]) * factor for part, factor in parts]
    biases = [tf.reshape(part.bias, [hidden]) * factor for part, factor in parts]
    return {
        "fused_kernel": tf.concat(kernels, axis=1),  # [hidden, 3 * hidden]
        "fused_bias": tf.concat(biases, axis=0),
        "project_kernel": tf.reshape(attention._output_dense.kernel, [hidden, hidden]),
        "project_bias": tf.convert_to_tensor(attention._output_dense.bias),
        "expand_kernel": tf.convert_to_tensor(layer._feedforward_intermediate_dense.kernel),
        "expand_bias": tf.convert_to_tensor(layer._feedforward_intermediate_dense.bias),
        "contract_kernel": tf.convert_to_tensor(layer._feedforward_output_dense.kernel),
        "contract_bias": tf.convert_to_tensor(layer._feedforward_output_dense.bias),
        **_norm_weights(layer._self_attention_layer_norm, "attention"),
        **_norm_weights(layer._feedforward_layer_norm, "feedforward"),
    }


def _norm_weights(norm: Any, name: str) -> dict[str, Any]:
    return {
        f"{name}_scale": tf.convert_to_tensor(norm.gamma),
        f"{name}_shift": tf.convert_to_tensor(norm.beta),
    }
