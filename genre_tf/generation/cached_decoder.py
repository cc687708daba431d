"""A language model a few tokens at a time: prefill once, then steps with a cache, in portable ops only.

KerasHub's own cache uses `slice_update`, an XLA operation that TensorFlow Serving rejects. Here the prompt's
keys and values stay as the prefill left them, shared by all samples of a row; those of written tokens go into
a cache of fixed size (`cache_attention.py`).
"""

from typing import Any

import tensorflow as tf

from genre_tf.backbones.hub import norm_of
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.generation.cache_attention import CachedAttention, PromptCache, WrittenCache, new_cache
from genre_tf.generation.kernels import Kernel, few_rows
from genre_tf.layers.attention import MASKED, Attention, Padded, Prefix, causal_bias, padding_bias
from genre_tf.layers.block import Attend, Block, transformed
from genre_tf.layers.elementwise import Norm, rotary_turns


class CachedDecoder(tf.Module):
    """The weights of a language model in the layout that decodes fastest; it computes the same function.

    Query, key and value are one matrix, and so are a gate and what it opens. Low-rank updates are merged, and
    each normalization's scale and shift are merged into the product after it. Where norms subtract the mean
    (GPT-2), everything added to the states has mean 0, so that each of them is a division by the root mean
    square (Ashkboos et al. 2024, "SliceGPT", section 3.1). Kernels are stored as [inputs, outputs] and biases
    are added separately: without oneDNN, as on processors without AVX-512, a few rows times a transposed
    kernel take up to eight times longer, and one row in a product fused with its bias up to six times.

    These are separate variables, so that a served graph does not convert the layout at each request.
    `refresh` updates them to the current weights of the layers.

    Args:
        layers: layers of the model, trained or not.

    Attributes:
        hidden: width of the embeddings.
        max_positions: longest prompt including its text.
    """

    def __init__(self, layers: LanguageLayers) -> None:
        super().__init__()
        self.hidden, self.depth = layers.hidden, layers.depth
        self.heads, self.key_heads = layers.heads, layers.key_heads
        self.max_positions = layers.max_positions
        self.rotary_base = layers.rotary_base
        self.epsilon: float = norm_of(layers.backbone.layer_norm).epsilon
        self._centred = norm_of(layers.backbone.layer_norm).offset is not None
        gated = layers.blocks[0].parts.gate is not None
        self.activation = None if gated else layers.blocks[0].parts.expand.activation
        # Inside a function, the layers are not tracked, so that an export holds each weight once.
        self._read = lambda: [_outer_weights(layers), *map(_weights, layers.blocks)]
        self.outer, *self.layers = [
            {name: _variable(name, value) for name, value in weights.items()} for weights in self._read()
        ]

    def refresh(self) -> None:
        """Copy the current weights of the layers."""
        for ours, theirs in zip([self.outer, *self.layers], self._read(), strict=True):
            for name, variable in ours.items():
                variable.assign(theirs[name])

    def embed(self, token_ids: Any) -> Any:
        """Token embeddings, without positions: int32 [...] -> float32 [..., hidden]."""
        return tf.gather(self.outer["tokens"], token_ids)

    def prefill(self, embeddings: Any, mask: Any, prefix: Prefix | None = None) -> tuple[Any, PromptCache]:
        """Read a whole prompt.

        Args:
            embeddings: float32 [batch, time, hidden], without positions; each row's last token is in the last
                column.
            mask: bool [batch, time], False for padding.
            prefix: keys and values before the prompt, without positions; they come first in the cache.

        Returns:
            Logits of the token after the last column, float32 [batch, vocabulary], and the cache.
        """
        bias, causal = padding_bias(mask), causal_bias(tf.shape(mask)[1])
        if prefix is not None:
            size = tf.shape(prefix.keys[0])[2]
            seen = tf.fill([tf.shape(mask)[0], 1, 1, size], tf.convert_to_tensor(prefix.bias))
            bias = tf.concat([seen, bias], axis=3)  # [batch, 1, 1, prefix + time]
            causal = tf.pad(causal, [[0, 0], [size, 0]])
        length = tf.cast(mask, tf.int32)
        positions = tf.maximum(tf.cumsum(length, axis=1) - 1, 0)  # from each row's first token
        layout = Padded(embeddings)
        turns = self._turns(positions)  # [batch, 1, time, depth]
        attention = Attention(layout, tf.maximum(causal + bias, MASKED), turns, prefix, keep=True)
        states = self._transformed(self._entered(embeddings, positions), attention)
        last = layout.padded(states, False)[:, -1]  # [batch, hidden]
        keys, values = (list(part) for part in zip(*attention.seen, strict=True))
        cache = PromptCache(keys, values, bias, tf.reduce_sum(length, axis=1))
        return self._logits(last), cache

    def read(
        self, embeddings: Any, positions: Any, prompt: PromptCache, written: WrittenCache
    ) -> tuple[Any, WrittenCache]:
        """Read the next tokens of every sample.

        Each token's place in the cache follows from its position: the previous content is overwritten, and
        later places are ignored, so that rejected tokens need not be removed.

        Args:
            embeddings: float32 [batch, samples, columns, hidden], without positions.
            positions: int32 [batch, samples, columns], consecutive.
            prompt: result of `prefill`.
            written: result of the previous step; `nothing_written` at first.

        Returns:
            Logits after every token, float32 [batch * samples * columns, vocabulary], and the cache.
        """
        at = positions - prompt.length[:, None, None]
        turns = self._turns(tf.reshape(positions, [-1]))  # [tokens, 1, depth]
        attention = CachedAttention(prompt, written, at, self.heads // self.key_heads, turns)
        states = self._transformed(self._entered(embeddings, positions), attention)
        return self._logits(states), attention.grown

    def nothing_written(self, batch: Any, samples: int, room: int) -> WrittenCache:
        """The cache before the first token, for at most `room` tokens per sample."""
        new = (batch, self.key_heads, samples, room, self.depth)
        keys, values = ([new_cache(*new) for _ in self.layers] for _ in range(2))
        return WrittenCache(keys, values)

    def _entered(self, embeddings: Any, positions: Any) -> Any:
        """States [tokens, hidden]; of mean 0 if norms subtract it."""
        if self._centred:
            embeddings = _centred(embeddings)
        if self.rotary_base is None:
            embeddings += tf.gather(self.outer["positions"], positions)
        return tf.reshape(embeddings, [-1, self.hidden])

    def _turns(self, positions: Any) -> tuple[Any, Any] | None:
        if self.rotary_base is None:
            return None
        cosine, sine = rotary_turns(positions, self.depth, self.rotary_base)
        return cosine[:, None], sine[:, None]

    def _transformed(self, states: Any, attend: Attend) -> Any:
        few = few_rows(states)
        for number, weights in enumerate(self.layers):
            states = transformed(_Layer(self, weights, number, few), states, attend)
        return states

    def _logits(self, states: Any) -> Any:
        return _product(_normalized(states, self.epsilon), self.outer, "output", few_rows(states))


class _Layer:
    """One layer during one pass; see `genre_tf.layers.block.Weights`."""

    norm_first = True

    def __init__(self, model: CachedDecoder, weights: dict[str, Any], number: int, few: Any) -> None:
        self.model, self.weights, self.number, self.few = model, weights, number, few
        self.heads, self.key_heads = model.heads, model.key_heads

    def norm(self, part: str, flat: Any, training: bool | None) -> Any:
        return _normalized(flat, self.model.epsilon)

    def attended(self, flat: Any, attend: Attend, training: bool | None) -> Any:
        mixed = attend(_product(flat, self.weights, "fused", self.few), self)
        return _product(mixed, self.weights, "project", self.few)

    def fed_forward(self, flat: Any, training: bool | None) -> Any:
        wide = _product(flat, self.weights, "expand", self.few)
        if self.model.activation is None:
            gate, wide = tf.split(wide, 2, axis=1)
            wide = gate * tf.sigmoid(gate) * wide
        else:
            wide = self.model.activation(wide)
        return _product(wide, self.weights, "contract", self.few)


def _normalized(states: Any, epsilon: float) -> Any:
    """Normalized without scale and shift, which are merged into the next product."""
    return states * tf.math.rsqrt(tf.reduce_mean(states * states, -1, keepdims=True) + epsilon)


def _product(states: Any, weights: dict[str, Any], name: str, few: Any) -> Any:
    found = weights[f"{name}_kernel"](states, few)
    return found + weights[f"{name}_bias"] if f"{name}_bias" in weights else found


def _variable(name: str, value: Any) -> Any:
    is_kernel = name.endswith("_kernel")
    return Kernel(value, name) if is_kernel else tf.Variable(value, trainable=False, name=name)


def _outer_weights(layers: LanguageLayers) -> dict[str, Any]:
    tokens = layers.merged_embeddings()
    found = {"tokens": tokens}
    if layers.rotary_base is None:
        table = layers.backbone.position_embedding.position_embeddings
        found["positions"] = _centred(tf.convert_to_tensor(table))
    norm = norm_of(layers.backbone.layer_norm)
    return found | _named("output", *_behind(norm, tf.transpose(tokens), None))  # [hidden, vocabulary]


def _weights(block: Block) -> dict[str, Any]:
    """The weights of a layer: kernels [inputs, outputs] and biases [outputs]."""
    parts, scale = block.parts, block.depth**-0.5  # of the scores, merged into the query
    fused = _joined(block, ("query", "key", "value"), (scale, 1.0, 1.0))
    expand = _joined(block, ("expand",) if parts.gate is None else ("gate", "expand"))
    before_sum = {name: _joined(block, (name,)) for name in ("project", "contract")}
    if parts.attention_norm.offset is not None:
        before_sum = {name: tuple(map(_centred, pair)) for name, pair in before_sum.items()}
    found = {
        "fused": _behind(parts.attention_norm, *fused),
        "expand": _behind(parts.feed_forward_norm, *expand),
        **before_sum,
    }
    return {key: value for name, pair in found.items() for key, value in _named(name, *pair).items()}


def _named(name: str, kernel: Any, bias: Any) -> dict[str, Any]:
    return {f"{name}_kernel": kernel} | ({} if bias is None else {f"{name}_bias": bias})


def _joined(block: Block, names: tuple[str, ...], factors: tuple[float, ...] = (1.0,) * 2) -> tuple[Any, Any]:
    """Kernels and biases of products side by side, with low-rank updates, each times its factor."""
    scaled = list(zip(names, factors, strict=False))
    kernel = tf.concat([block.kernel(name, merged=True) * factor for name, factor in scaled], axis=1)
    biases = [bias * factor for name, factor in scaled if (bias := block.bias(name)) is not None]
    return kernel, tf.concat(biases, axis=0) if biases else None


def _behind(norm: Norm, kernel: Any, bias: Any) -> tuple[Any, Any]:
    """A product with its normalization's scale and shift merged in."""
    scaled = tf.convert_to_tensor(norm.scale)[:, None] * kernel
    if norm.offset is None:
        return scaled, bias
    shift = tf.linalg.matvec(kernel, tf.convert_to_tensor(norm.offset), transpose_a=True)
    return scaled, shift if bias is None else bias + shift


def _centred(values: Any) -> Any:
    return values - tf.reduce_mean(values, axis=-1, keepdims=True)
