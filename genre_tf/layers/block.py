"""One transformer layer of any architecture: its arithmetic, its weights, and trained additions to them."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from genre_tf.layers.attention import Heads
from genre_tf.layers.elementwise import Norm, activated, gated_silu, normalized

_ADAPTER_SPREAD = 1e-2  # as in Houlsby et al.
_PREFIX_SPREAD = 0.5  # similar to keys and values of real words
# Of AdaLoRA, as in its paper: what it starts with relative to the rank that is left, and the weight of a loss
_FIRST_RANK, _ORTHOGONALITY = 1.5, 0.1

Attend = Callable[..., tf.Tensor]
"""How tokens see each other: `Attention`, or one with a cache; called as `Attention` is."""


class Weights(Heads, Protocol):
    """The two parts of a transformer layer and their norms, however the weights are kept.

    `norm_first`: states are normalized before each part, as in GPT-2 and Llama, or else after each sum, as in
    BERT.
    """

    norm_first: bool

    def norm(self, part: str, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """The norm of the part `attention` or `feed_forward`: [tokens, hidden] -> the same."""

    def attended(self, flat: tf.Tensor, attend: Attend, training: bool | None) -> tf.Tensor:
        """Self-attention: [tokens, hidden] -> the same."""

    def fed_forward(self, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """The feed-forward network: [tokens, hidden] -> the same."""


def transformed(layer: Weights, flat: tf.Tensor, attend: Attend, training: bool | None = None) -> tf.Tensor:
    """The states after a transformer layer: float [tokens, hidden], in whose precision the sums are computed.

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
    """The parts of a layer that KerasHub has built: Keras' dense layers, whose kernels may be split by heads.

    `gate` lies beside `expand`; None: the activation of `expand` is applied instead. The last three are
    layers that drop attention weights and both outputs; None: there is none.
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
    query, key and value are one product. Normalizations and activations have closed-form gradients. The
    weights of the KerasHub layer are shared, not copied. Without `attention_drops` no attention weights are
    dropped in training: on long rows that many random numbers would cost a tenth of the step.
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
        """Freeze the layer and train additions to it, by the name of the product that they follow.

        The names are those of `Parts.dense`; "attention" stands for the attention itself. Query, key and
        value take a `KernelUpdate` only. The norms are trained beside adapters, as in their paper.
        """
        self.additions = additions
        set_trainable(self.layer, False)
        if any(isinstance(addition, Adapter) for addition in additions.values()):
            for norm in (self.parts.attention_norm, self.parts.feed_forward_norm):
                for weight in (norm.scale, norm.offset):
                    if weight is not None:  # Llama's norms have no offset
                        weight.trainable = True

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
        return flat + update.added() if merged and isinstance(update, KernelUpdate) else flat

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


def additions_to(block: Block, method: str, size: int, products: Sequence[str]) -> dict[str, Any]:
    """New additions to a block, by the method and size of a `Trainable`; `products` get low-rank updates."""
    if method == "prefix":
        dropout = block.parts.attention_dropout
        rate = 0.0 if dropout is None else dropout.rate
        return {"attention": GatedPrefix(size, block.heads, block.depth, rate, "prefix")}
    if method == "adapters":
        hidden = block.kernel("project").shape[1]
        return {part: Adapter(hidden, size, f"{part}_adapter") for part in ("project", "contract")}
    kind: Any = {"lora": LowRank, "adalora": AdaptiveLowRank}[method]
    return {name: kind(*block.kernel(name).shape, size, name) for name in products}


@contextlib.contextmanager
def merged(blocks: Sequence[Block], others: Sequence[tuple[Any, tf.Tensor]] = ()) -> Iterator[None]:
    """Merge low-rank updates into the kernels of KerasHub's layers while the context lasts.

    Also set `others`: further variables, to values of the same size.
    """
    changes = list(others)
    for block in blocks:
        for name, dense in block.parts.dense.items():
            if isinstance(block.additions.get(name), KernelUpdate):
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


# Small trained additions to frozen layers; every one starts at zero, the pretrained function. Each is called
# after a product of a layer, with what went in and what came out, and returns what goes on.


class KernelUpdate(keras.layers.Layer):
    """A trained update of a frozen kernel, the product of two narrow factors, computed separately.

    In `x W + x A B` no gradient of the kernel's size is computed. For decoding it can be merged into the
    kernel. The scale alpha / rank is 1.
    """

    def factors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """A, float32 [inputs, rank], and B, [rank, outputs]."""
        raise NotImplementedError

    def call(self, flat: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        """Input [M, inputs] and product [M, outputs] of the kernel -> the product with the update."""
        return found + self.update(flat)

    def update(self, flat: tf.Tensor) -> tf.Tensor:
        """The addition to the kernel's product: [M, inputs] -> [M, outputs]."""
        down, up = (tf.cast(each, flat.dtype) for each in self.factors())
        return tf.matmul(tf.matmul(flat, down), up)

    def added(self) -> tf.Tensor:
        """The addition to the kernel itself, float32 [inputs, outputs]: for weights that are only read."""
        return tf.matmul(*self.factors())


class LowRank(KernelUpdate):
    """A low-rank update, A B; B starts at zero.

    A and B are those of the paper, for the whole matrix. `enable_lora` of Keras' EinsumDense gives every head
    its own A and one B to all of them, and adds the product to the kernel, so that a gradient of the kernel's
    size is computed on the way.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, equation 3.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, name: str) -> None:
        super().__init__(name=name)
        gaussian = keras.initializers.RandomNormal(stddev=1 / math.sqrt(inputs))
        self.down = self.add_weight(name=f"{name}_down", shape=(inputs, rank), initializer=gaussian)
        self.up = self.add_weight(name=f"{name}_up", shape=(rank, outputs), initializer="zeros")
        self.built = True

    def factors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """See `KernelUpdate`."""
        return tf.convert_to_tensor(self.down), tf.convert_to_tensor(self.up)


class AdaptiveLowRank(KernelUpdate):
    """A low-rank update as a singular value decomposition, P diag(values) Q, of half again the rank at first.

    The values start at zero; P and Q start orthogonal and are kept so by a loss. In training a `RankBudget`
    sets the values that matter least to zero, so that `rank` is left on average over all updates.

    Source: Zhang et al., "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", 2023,
    equations 3 and 4.
    """

    def __init__(self, inputs: int, outputs: int, rank: int, name: str) -> None:
        super().__init__(name=name)
        self.rank = rank
        first = min(math.ceil(_FIRST_RANK * rank), inputs, outputs)
        orthogonal = keras.initializers.Orthogonal()
        self.left = self.add_weight(
            name=f"{name}_left", shape=(inputs, first), initializer=orthogonal, regularizer=_not_orthogonal
        )
        self.values = self.add_weight(
            name=f"{name}_values", shape=(first,), initializer="zeros", aggregation="only_first_replica"
        )
        self.right = self.add_weight(
            name=f"{name}_right", shape=(first, outputs), initializer=orthogonal, regularizer=_not_orthogonal
        )
        # An optimizer such as Adam moves every weight as far as any other, and one value stands for the many
        # entries of a row of LoRA's B.
        self._pace = math.sqrt(outputs)
        self.built = True

    def factors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """See `KernelUpdate`."""
        left, values, right = map(tf.convert_to_tensor, (self.left, self.values, self.right))
        return left * (self._pace * values), right


def _not_orthogonal(matrix: tf.Tensor) -> tf.Tensor:
    """The loss that keeps the longer vectors of a matrix orthogonal and of length one, float32 []."""
    matrix = tf.convert_to_tensor(matrix)
    narrow = matrix.shape[0] > matrix.shape[1]
    products = tf.matmul(matrix, matrix, transpose_a=narrow, transpose_b=not narrow)
    return _ORTHOGONALITY * tf.reduce_sum((products - tf.eye(products.shape[0])) ** 2)


class Adapter(keras.layers.Layer):
    """A bottleneck with a residual connection, `x + up(gelu(down(x)))`; `up` starts at zero: the identity.

    Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, figure 2.
    """

    def __init__(self, hidden: int, width: int, name: str) -> None:
        super().__init__(name=name)
        near_zero = keras.initializers.TruncatedNormal(stddev=_ADAPTER_SPREAD)
        self.down = keras.layers.Dense(width, activation="gelu", kernel_initializer=near_zero, name="down")
        self.up = keras.layers.Dense(hidden, kernel_initializer="zeros", name="up")
        self.down.build((None, hidden))
        self.up.build((None, width))
        self.built = True

    def call(self, flat: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        """Input and output [M, hidden] of a product -> the output through the bottleneck."""
        return found + self.update(found)

    def update(self, found: tf.Tensor) -> tf.Tensor:
        """What is added to the output of a product: [M, hidden] -> the same."""
        wide = self.down.activation(_affine(found, self.down.kernel, self.down.bias))
        return _affine(wide, self.up.kernel, self.up.bias)


class GatedPrefix(keras.layers.Layer):
    """Trained keys and values that every token can attend to, in addition to those of the text.

    In the paper they share the softmax of the text, so that even untrained ones take attention away from it.
    Here, as in LLaMA-Adapter, they have their own softmax, and each head adds its result through a gate that
    starts at zero. The vectors are trained directly, without the paper's network over them.

    Source: Li and Liang, "Prefix-Tuning", 2021; the gate: Zhang et al., "LLaMA-Adapter", 2023, equation 6.
    """

    def __init__(self, vectors: int, heads: int, depth: int, dropout: float, name: str) -> None:
        super().__init__(name=name)
        for part in ("prefix_keys", "prefix_values"):
            start = keras.initializers.RandomNormal(stddev=_PREFIX_SPREAD)
            setattr(self, part, self.add_weight(name=part, shape=(vectors, heads, depth), initializer=start))
        self.gate = self.add_weight(name="prefix_gate", shape=(heads, 1), initializer="zeros")
        self.dropout = keras.layers.Dropout(dropout)
        self.built = True

    def call(self, query: tf.Tensor, mixed: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Scaled queries and attention output, [M, heads * depth] each -> the output with the prefix's."""
        return mixed + self.update(query, training)

    def update(self, query: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """What the prefix adds to the output, by the queries: [M, heads * depth] -> the same.

        The prefix has no positions, so rotary positions do not turn these queries.
        """
        keys, values, gate = (
            tf.cast(tf.convert_to_tensor(each), query.dtype)
            for each in (self.prefix_keys, self.prefix_values, self.gate)
        )
        scores = tf.einsum("mnh,snh->mns", tf.reshape(query, [-1, *keys.shape[1:]]), keys)
        weights = tf.cast(tf.nn.softmax(tf.cast(scores, tf.float32)), query.dtype)
        answer = tf.einsum("mns,snh->mnh", self.dropout(weights, training=training), values)
        return tf.reshape(tf.tanh(gate) * answer, tf.shape(query))


class TokenRows(keras.layers.Layer):
    """An addition to the input and output embeddings of a few tokens.

    Control tokens are new to a pretrained model: its other tokens may stay frozen, but these must be trained.
    """

    def __init__(self, ids: Sequence[int], vocabulary: int, hidden: int) -> None:
        super().__init__(name="token_rows")
        self.ids = np.asarray(ids, np.int32)
        self._place = np.zeros(vocabulary, np.int32)  # 0: a token without an addition
        self._place[self.ids] = np.arange(1, len(ids) + 1)
        self._column = np.zeros((len(ids), vocabulary), np.float32)
        self._column[np.arange(len(ids)), self.ids] = 1.0
        self.rows = self.add_weight(name="rows", shape=(len(ids), hidden), initializer="zeros")
        self.built = True

    def embed(self, token_ids: tf.Tensor) -> tf.Tensor:
        """The addition to embeddings: int32 [...] -> float32 [..., hidden]."""
        rows = tf.pad(tf.convert_to_tensor(self.rows), [[1, 0], [0, 0]])
        return tf.gather(rows, tf.gather(self._place, token_ids))

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """The addition to logits: [n, hidden] -> [n, vocabulary]."""
        rows = tf.cast(tf.convert_to_tensor(self.rows), states.dtype)
        return tf.matmul(tf.matmul(states, rows, transpose_b=True), tf.cast(self._column, states.dtype))

    def added_to(self, table: tf.Tensor) -> tf.Tensor:
        """The embeddings with these rows added: float32 [vocabulary, hidden]."""
        return tf.tensor_scatter_nd_add(table, self.ids[:, None], tf.convert_to_tensor(self.rows))
