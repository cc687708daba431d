"""One transformer layer of any architecture: its arithmetic, and its weights in a KerasHub layer."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from genre_tf.layers.additions import Adapter, LowRank
from genre_tf.layers.attention import Heads
from genre_tf.layers.elementwise import Norm, activated, gated_silu, normalized

Attend = Callable[..., tf.Tensor]
"""How tokens see each other: `Attention`, or one with a cache; called as `Attention` is."""


class Weights(Heads, Protocol):
    """The two parts of a transformer layer and their norms, however the weights are kept.

    Attributes:
        norm_first: whether states are normalized before each part, as in GPT-2 and Llama, or after each sum,
            as in BERT.
    """

    norm_first: bool

    def norm(self, part: str, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """The norm of the part `attention` or `feed_forward`: [tokens, hidden] -> the same."""

    def attended(self, flat: tf.Tensor, attend: Attend, training: bool | None) -> tf.Tensor:
        """Self-attention: [tokens, hidden] -> the same."""

    def fed_forward(self, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """The feed-forward network: [tokens, hidden] -> the same."""


def transformed(layer: Weights, flat: tf.Tensor, attend: Attend, training: bool | None = None) -> tf.Tensor:
    """The states after a transformer layer.

    Args:
        layer: its weights.
        flat: float [tokens, hidden]; the sums are computed in this precision.
        attend: which tokens see each other.
        training: whether dropout is active and gradients are wanted.

    Returns:
        float [tokens, hidden].

    Source: a norm after each sum: Devlin et al., "BERT", 2018; before each part: Radford et al. 2019 (GPT-2).
    """
    if layer.norm_first:
        found = layer.attended(layer.norm("attention", flat, training), attend, training)
        flat += tf.cast(found, flat.dtype)
        found = layer.fed_forward(layer.norm("feed_forward", flat, training), training)
        return flat + tf.cast(found, flat.dtype)
    found = layer.attended(flat, attend, training)
    flat = layer.norm("attention", flat + tf.cast(found, flat.dtype), training)
    found = layer.fed_forward(flat, training)
    return layer.norm("feed_forward", flat + tf.cast(found, flat.dtype), training)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a layer that KerasHub has built.

    Attributes:
        heads, key_heads, norm_first: see `Weights`.
        query, key, value, project, expand, contract: Keras' dense layers; kernels may be split by heads.
        gate: a dense layer beside `expand`; None: the activation of `expand` is applied instead.
        attention_norm, feed_forward_norm: normalizations.
        attention_dropout, project_dropout, contract_dropout: layers that drop attention weights and both
            outputs; None: there is none.
    """

    heads: int
    key_heads: int
    norm_first: bool
    query: Any
    key: Any
    value: Any
    project: Any
    expand: Any
    contract: Any
    gate: Any = None
    attention_norm: Norm
    feed_forward_norm: Norm
    attention_dropout: Any = None
    project_dropout: Any = None
    contract_dropout: Any = None

    @property
    def dense(self) -> dict[str, Any]:
        """The dense layers by name."""
        names = ("query", "key", "value", "project", "gate", "expand", "contract")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Block(keras.layers.Layer):
    """A transformer layer for training: KerasHub's weights and results, in fewer passes over memory.

    All matrix products have rank 2 and are followed by their bias, which oneDNN computes as one operation;
    query, key and value are one product. Normalizations and activations have closed-form gradients.

    Args:
        layer: the KerasHub layer; its weights are shared, not copied.
        parts: its parts.
        number: its position in the model.
        attention_drops: whether attention weights are dropped in training; on long rows that many random
            numbers would cost a tenth of the step.
    """

    def __init__(
        self, layer: keras.layers.Layer, parts: Parts, number: int, attention_drops: bool = True
    ) -> None:
        super().__init__(name=f"block_{number}")
        self.layer = layer
        self.parts = parts
        self.number = number
        self.heads, self.key_heads, self.norm_first = parts.heads, parts.key_heads, parts.norm_first
        self.depth: int = parts.query.kernel.shape[-1]
        self.attention_drops = attention_drops
        self.additions: dict[str, Any] = {}
        self.built = True

    def add(self, additions: dict[str, Any]) -> None:
        """Freeze the layer and train additions to it.

        Args:
            additions: what is added, by the name of the product that it follows (see `Parts.dense`;
                "attention": the attention itself). Query, key and value take a `LowRank` only. The norms are
                trained beside adapters, as in their paper.
        """
        self.additions = additions
        set_trainable(self.layer, False)
        if any(isinstance(addition, Adapter) for addition in additions.values()):
            for norm in (self.parts.attention_norm, self.parts.feed_forward_norm):
                norm.scale.trainable = norm.offset.trainable = True

    def norm(self, part: str, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """See `Weights`."""
        norm = self.parts.attention_norm if part == "attention" else self.parts.feed_forward_norm
        return normalized(flat, norm, training)

    def attended(self, flat: tf.Tensor, attend: Attend, training: bool | None) -> tf.Tensor:
        """See `Weights`."""
        parts, dropout = self.parts, None
        if training and self.attention_drops and parts.attention_dropout is not None:
            dropout = parts.attention_dropout
        fused = self._query_key_value(flat)
        # If TensorFlow sees equal shapes, it fuses the following sum into the product.
        mixed = tf.reshape(attend(fused, self, training, dropout), tf.shape(flat))
        if "attention" in self.additions:
            mixed = self.additions["attention"](fused[:, : flat.shape[1]], mixed, training=training)
        return _dropped(self._product("project", mixed), parts.project_dropout, training)

    def fed_forward(self, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """See `Weights`."""
        wide = self._product("expand", flat)  # [tokens, intermediate]
        if self.parts.gate is None:
            wide = activated(wide, self.parts.expand.activation, training)
        else:
            wide = gated_silu(self._product("gate", flat), wide)
        return _dropped(self._product("contract", wide), self.parts.contract_dropout, training)

    def kernel(self, name: str, merged: bool = False) -> tf.Tensor:
        """A kernel with its heads joined, [inputs, outputs]; with its low-rank update if `merged`."""
        kernel = self.parts.dense[name].kernel
        flat = tf.reshape(kernel, flat_shape(kernel, split_inputs=name == "project"))
        update = self.additions.get(name)
        return flat + update.added() if merged and isinstance(update, LowRank) else flat

    def bias(self, name: str) -> tf.Tensor | None:
        """A bias with its heads joined, [outputs]; None if the product has none."""
        bias = self.parts.dense[name].bias
        return None if bias is None else tf.reshape(bias, [-1])

    def _product(self, name: str, flat: tf.Tensor) -> tf.Tensor:
        """[tokens, inputs] -> [tokens, outputs], with bias and addition."""
        flat = tf.cast(flat, self.compute_dtype)
        found = _affine(flat, self.kernel(name), self.bias(name))
        return self.additions[name](flat, found) if name in self.additions else found

    def _query_key_value(self, flat: tf.Tensor) -> tf.Tensor:
        """Queries, scaled, keys and values side by side: [tokens, (heads + 2 * key heads) * depth]."""
        flat = tf.cast(flat, self.compute_dtype)
        names, scale = ("query", "key", "value"), self.depth**-0.5
        kernels, biases = [self.kernel(name) for name in names], [self.bias(name) for name in names]
        # The scale of the scores is applied to the smallest tensors.
        kernel = tf.concat([kernels[0] * scale, *kernels[1:]], 1)
        bias = None if biases[0] is None else tf.concat([biases[0] * scale, *biases[1:]], 0)
        fused = _affine(flat, kernel, bias)
        if not any(name in self.additions for name in names):
            return fused
        updates = [
            self.additions[name].update(flat)
            if name in self.additions
            else tf.zeros([tf.shape(flat)[0], each.shape[1]], flat.dtype)
            for name, each in zip(names, kernels, strict=True)
        ]
        return fused + tf.concat([updates[0] * scale, *updates[1:]], 1)


def flat_shape(kernel: Any, split_inputs: bool) -> tuple[int, int]:
    """Inputs and outputs of a kernel, one of which may be split by heads."""
    shape = tuple(kernel.shape)
    joined = len(shape) - 1 if split_inputs else 1
    return math.prod(shape[:joined]), math.prod(shape[joined:])


def low_rank_updates(block: Block, names: Sequence[str], rank: int) -> dict[str, Any]:
    """A `LowRank` for each of these products of a block."""
    updates = {}
    for name in names:
        inputs, outputs = block.kernel(name).shape
        updates[name] = LowRank(inputs, outputs, rank, name)
    return updates


@contextlib.contextmanager
def merged(blocks: Sequence[Block], others: Sequence[tuple[Any, tf.Tensor]] = ()) -> Iterator[None]:
    """Merge low-rank updates into the kernels of KerasHub's layers while the context lasts.

    Args:
        blocks: layers with or without updates.
        others: further variables, and values of the same size that they get.
    """
    changes = list(others)
    for block in blocks:
        for name, dense in block.parts.dense.items():
            if isinstance(block.additions.get(name), LowRank):
                changes.append((dense.kernel, block.kernel(name, merged=True)))
    before = [tf.identity(tf.convert_to_tensor(variable)) for variable, _ in changes]
    try:
        for variable, value in changes:
            variable.assign(tf.reshape(value, variable.shape))
        yield
    finally:
        for (variable, _), value in zip(changes, before, strict=True):
            variable.assign(value)


def set_trainable(layer: keras.layers.Layer, value: bool) -> None:
    """Freeze or unfreeze a layer and every layer inside it."""
    # Keras ignores an assignment that does not change the layer's own value, even if inner layers differ.
    layer.trainable = not value
    layer.trainable = value


def _affine(flat: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    found = tf.matmul(flat, tf.cast(kernel, flat.dtype))
    return found if bias is None else tf.nn.bias_add(found, tf.cast(bias, flat.dtype))


def _dropped(found: tf.Tensor, dropout: Any, training: bool | None) -> tf.Tensor:
    return found if dropout is None else dropout(found, training=training)
