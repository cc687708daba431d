"""Frozen transformer layers, each with a small trained addition.

Every addition starts at zero, so that training starts exactly at the pretrained function. The arithmetic of
the frozen layer is that of KerasHub's `TransformerEncoder`, written out where an addition enters.
"""

import math
from typing import Any

import keras
import keras_hub
import tensorflow as tf

from genre_tf.backbones.trainable import Trainable

_ADAPTER_SPREAD = 1e-2  # as in Houlsby et al.
_PREFIX_SPREAD = 0.5  # similar to keys and values of real words


def tuned(layer: keras_hub.layers.TransformerEncoder, trainable: Trainable) -> Any:
    """The layer with the additions of `trainable`; the layer itself if there are none."""
    if trainable.method == "layers":
        return layer
    kinds = {"lora": LoraBlock, "adapters": AdapterBlock, "prefix": PrefixBlock}
    return kinds[trainable.method](layer, trainable.size)


class TunedBlock(keras.layers.Layer):
    """A frozen transformer layer (normalized after each sum, as in BERT); subclasses add to it.

    Args:
        layer: a built layer; its weights are shared, not copied.
    """

    def __init__(self, layer: keras_hub.layers.TransformerEncoder) -> None:
        super().__init__(name=f"tuned_{layer.name}")
        self.layer = layer
        self.attention = layer._self_attention_layer
        self.heads, self.head_width = int(self.attention.num_heads), int(self.attention.key_dim)
        self.hidden = self.heads * self.head_width
        self.supports_masking = True

    def freeze(self) -> None:
        """Train only the additions."""
        set_trainable(self.layer, False)

    def query(self, states: tf.Tensor) -> tf.Tensor:
        """[N, T, hidden] -> [N, T, heads, head width]."""
        return self.attention.query_dense(states)

    def value(self, states: tf.Tensor) -> tf.Tensor:
        """[N, T, hidden] -> [N, T, heads, head width]."""
        return self.attention.value_dense(states)

    def attend_also(self, query: tf.Tensor, training: bool | None) -> tf.Tensor | None:
        """The addition to each head's output, [N, T, heads, head width]."""
        return None

    def after_attention(self, states: tf.Tensor) -> tf.Tensor:
        """Transforms the attention's output before it is added to the layer's input, [N, T, hidden]."""
        return states

    def after_feed_forward(self, states: tf.Tensor) -> tf.Tensor:
        """Transforms the feed-forward output before it is added to its input, [N, T, hidden]."""
        return states

    def call(
        self, states: tf.Tensor, padding_mask: tf.Tensor | None = None, training: bool | None = None
    ) -> tf.Tensor:
        """float [N, T, hidden], bool [N, T] -> float [N, T, hidden]."""
        layer = self.layer
        found = self._attend(states, padding_mask, training)
        found = layer._self_attention_dropout(found, training=training)
        states = layer._self_attention_layer_norm(self.after_attention(found) + states)
        found = layer._feedforward_output_dense(layer._feedforward_intermediate_dense(states))
        found = layer._feedforward_dropout(found, training=training)
        return layer._feedforward_layer_norm(self.after_feed_forward(found) + states)

    def _attend(self, states: tf.Tensor, mask: tf.Tensor | None, training: bool | None) -> tf.Tensor:
        query, key, value = self.query(states), self.attention.key_dense(states), self.value(states)
        wide = None if mask is None else tf.cast(mask, tf.bool)[:, None, :]  # [texts, 1, tokens]
        answer, _ = self.attention._compute_attention(query, key, value, wide, training)
        more = self.attend_also(query, training)
        return self.attention.output_dense(answer if more is None else answer + more)


class LoraBlock(TunedBlock):
    """Query and value with a trained low-rank update: `x W + x A B`, where B starts at zero.

    A and B are those of the paper, for the whole matrix. `enable_lora` of Keras' EinsumDense gives every head
    its own A and one B to all of them, and adds the product to the kernel, so that the whole kernel's
    gradient is computed on the way. Everything else is frozen, including norms and biases, as in the paper;
    the scale alpha / rank is 1.

    Args:
        layer: a built layer.
        rank: rank of each update.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3.
    """

    def __init__(self, layer: keras_hub.layers.TransformerEncoder, rank: int) -> None:
        super().__init__(layer)
        for name in ("query", "value"):
            gaussian = keras.initializers.RandomNormal(stddev=1 / math.sqrt(self.hidden))
            down = self.add_weight(name=f"{name}_down", shape=(self.hidden, rank), initializer=gaussian)
            up = self.add_weight(
                name=f"{name}_up", shape=(rank, self.heads, self.head_width), initializer="zeros"
            )
            setattr(self, f"{name}_down", down)
            setattr(self, f"{name}_up", up)
        self.built = True

    def query(self, states: tf.Tensor) -> tf.Tensor:
        """The layer's query and its update."""
        return super().query(states) + _update(states, self.query_down, self.query_up)

    def value(self, states: tf.Tensor) -> tf.Tensor:
        """The layer's value and its update."""
        return super().value(states) + _update(states, self.value_down, self.value_up)


class Adapter(keras.layers.Layer):
    """A bottleneck with a residual connection, `x + up(gelu(down(x)))`; `up` starts at zero: the identity.

    Args:
        hidden: width of the states.
        width: width of the bottleneck.
    """

    def __init__(self, hidden: int, width: int, name: str) -> None:
        super().__init__(name=name)
        near_zero = keras.initializers.TruncatedNormal(stddev=_ADAPTER_SPREAD)
        self.down = keras.layers.Dense(width, activation="gelu", kernel_initializer=near_zero, name="down")
        self.up = keras.layers.Dense(hidden, kernel_initializer="zeros", name="up")
        self.down.build((None, None, hidden))
        self.up.build((None, None, width))
        self.built = True

    def call(self, states: tf.Tensor) -> tf.Tensor:
        """float [N, T, hidden] -> the same."""
        return states + self.up(self.down(states))


class AdapterBlock(TunedBlock):
    """An adapter after attention and one after feed-forward, each before the residual sum.

    The layer's two norms are trained with it, as in the paper; everything else is frozen.

    Args:
        layer: a built layer.
        width: width of the bottlenecks.

    Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, figure 2.
    """

    def __init__(self, layer: keras_hub.layers.TransformerEncoder, width: int) -> None:
        super().__init__(layer)
        self.attention_adapter = Adapter(self.hidden, width, "attention_adapter")
        self.feed_forward_adapter = Adapter(self.hidden, width, "feed_forward_adapter")
        self.built = True

    def freeze(self) -> None:
        """Train the adapters and the norms."""
        super().freeze()
        set_trainable(self.layer._self_attention_layer_norm, True)
        set_trainable(self.layer._feedforward_layer_norm, True)

    def after_attention(self, states: tf.Tensor) -> tf.Tensor:
        """Through the adapter, [N, T, hidden]."""
        return self.attention_adapter(states)

    def after_feed_forward(self, states: tf.Tensor) -> tf.Tensor:
        """Through the adapter, [N, T, hidden]."""
        return self.feed_forward_adapter(states)


class PrefixBlock(TunedBlock):
    """Trained keys and values that every token can attend to, in addition to those of the text.

    In the paper they share the softmax of the text, so that even untrained ones take attention away from it.
    Here, as in LLaMA-Adapter, they have their own softmax, and each head adds its result through a gate that
    starts at zero: training starts exactly at the pretrained function. The vectors are trained directly,
    without the paper's network over them. Everything else is frozen, including norms, as in the paper.

    Args:
        layer: a built layer.
        vectors: number of keys and of values.

    Source: Li and Liang, "Prefix-Tuning", 2021; the gate: Zhang et al., "LLaMA-Adapter", 2023, equation 6.
    """

    def __init__(self, layer: keras_hub.layers.TransformerEncoder, vectors: int) -> None:
        super().__init__(layer)
        for name in ("prefix_keys", "prefix_values"):
            start = keras.initializers.RandomNormal(stddev=_PREFIX_SPREAD)
            shape = (vectors, self.heads, self.head_width)
            setattr(self, name, self.add_weight(name=name, shape=shape, initializer=start))
        self.gate = self.add_weight(name="prefix_gate", shape=(self.heads, 1), initializer="zeros")
        self.built = True

    def attend_also(self, query: tf.Tensor, training: bool | None) -> tf.Tensor:
        """The gated output of the trained vectors."""
        scores = tf.einsum("btnh,snh->bnts", query, self.prefix_keys)
        weights = tf.nn.softmax(tf.cast(scores, tf.float32) / math.sqrt(self.head_width))
        weights = self.attention._dropout_layer(tf.cast(weights, query.dtype), training=training)
        answer = tf.einsum("bnts,snh->btnh", weights, self.prefix_values)
        return tf.tanh(self.gate) * answer


def set_trainable(layer: keras.layers.Layer, value: bool) -> None:
    """Freeze or unfreeze a layer and every layer inside it."""
    # Keras ignores an assignment that does not change the layer's own value, even if inner layers differ.
    layer.trainable = not value
    layer.trainable = value


def _update(states: tf.Tensor, down: Any, up: Any) -> tf.Tensor:
    narrow = tf.einsum("btd,dr->btr", states, down)  # [texts, tokens, rank]
    return tf.einsum("btr,rnh->btnh", narrow, up)
