"""A language model a few tokens at a time: prefill once, then steps with a cache, in portable ops only.

KerasHub's own cache uses `slice_update`, an XLA operation that TensorFlow Serving rejects. Here the prompt's
keys and values stay as the prefill left them, shared by all samples of a row; those of written tokens go into
a cache of fixed size. The shapes are the same at every step: oneDNN prepares a product again for each new
shape, which costs more than the product itself. New keys are written to the cache's own memory: a scatter in
a loop copies the whole cache, which took as long as the matrix products at eight rows.

The graph has a few layers, in a loop over all. With a copy for each of 30 layers TensorFlow takes 20 seconds
to optimize a signature when a server loads it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from genre_tf.backbones.hub import norm_of
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.generation.kernels import Kernel, Probe, Routes, of_layer
from genre_tf.layers.attention import MASKED, Attention, Heads, Padded, causal_bias, padding_bias
from genre_tf.layers.block import Adapter, Attend, Block, KernelUpdate, transformed
from genre_tf.layers.elementwise import Norm, rotary_turns, rotated

# Layers in an iteration of the loop, which hands all weights on: for one row that takes as long as a product.
_AT_ONCE = (1, 2, 3)


class PromptCache(NamedTuple):
    """What later tokens see of a prompt."""

    keys: Any  # float32 [layers, batch, key heads, time, depth]
    values: Any  # the same shape
    bias: Any  # float32 [batch, 1, 1, time]; 0 for a token, very low for padding
    length: Any  # int32 [batch], number of tokens in the prompt


class WrittenCache(NamedTuple):
    """What later tokens see of the tokens written so far, with room for all tokens from the start."""

    keys: Any  # float32 [layers, batch, key heads, samples, room, depth]
    values: Any  # the same shape


class CachedDecoder(tf.Module):
    """The weights of a language model in the layout that decodes fastest; it computes the same function.

    Query, key and value are one matrix, and so are a gate and what it opens. Low-rank updates are merged
    (adapters and trained prefixes cannot be, and are shared with the layers), and the scale and shift of each
    normalization except the last are merged into the product after it. Where norms subtract the mean (GPT-2),
    everything added to the states has mean 0, so that each of them is a division by the root mean square
    (Ashkboos et al. 2024, "SliceGPT", section 3.1). Kernels are stored as [inputs, outputs] and biases are
    added separately: without oneDNN, as on processors without AVX-512, a few rows times a transposed kernel
    take up to eight times longer, and one row in a product fused with its bias up to six times.

    These are separate variables, so that a served graph does not convert the layout at each request. Each
    holds the weights of all layers. `refresh` updates them to the current weights of the layers.

    With `fixed_shapes`, XLA can compile it: kernels stand as matrices only, the cache is written by a
    scatter, because XLA does not know `InplaceUpdate`, and layers follow each other without a loop.
    """

    def __init__(self, layers: LanguageLayers, fixed_shapes: bool = False) -> None:
        super().__init__()
        self.fixed_shapes = fixed_shapes
        self.hidden, self.depth, self.layer_count = layers.hidden, layers.depth, len(layers.blocks)
        self.heads, self.key_heads = layers.heads, layers.key_heads
        self.max_positions = layers.max_positions
        self.rotary_base = layers.rotary_base
        self.epsilon: float = norm_of(layers.backbone.layer_norm).epsilon
        self.centred = norm_of(layers.backbone.layer_norm).offset is not None
        gated = layers.blocks[0].parts.gate is not None
        self.activation = None if gated else layers.blocks[0].parts.expand.activation
        self.additions = [
            {name: each for name, each in block.additions.items() if not isinstance(each, KernelUpdate)}
            for block in layers.blocks
        ]
        # Additions differ from layer to layer, so that there can be no loop over layers.
        self.unrolled = fixed_shapes or any(self.additions)
        self.probe = None if fixed_shapes else Probe()
        # Inside a function, the layers are not tracked, so that an export holds each weight once.
        self._read = lambda: (_outer_weights(layers), _stacked(layers.blocks))
        self.outer, self.layers = (
            {
                name: Kernel(value, name, whole=name != "output_kernel", blocked=not fixed_shapes)
                if name.endswith("_kernel")
                else tf.Variable(value, trainable=False, name=name)
                for name, value in weights.items()
            }
            for weights in self._read()
        )

    def refresh(self) -> None:
        """Copy the current weights of the layers."""
        for ours, theirs in zip((self.outer, self.layers), self._read(), strict=True):
            for name, variable in ours.items():
                variable.assign(theirs[name])

    def embed(self, token_ids: Any) -> Any:
        """Token embeddings, without positions: int32 [...] -> float32 [..., hidden]."""
        return self.outer["output_kernel"].columns(token_ids)

    def prefill(self, embeddings: Any, mask: Any) -> tuple[Any, PromptCache]:
        """Read a whole prompt.

        Args:
            embeddings: float32 [batch, time, hidden], without positions; each row ends in the last column.
            mask: bool [batch, time], False for padding.

        Returns:
            Logits of the token after the last column, float32 [batch, vocabulary], and the cache.
        """
        bias = padding_bias(mask)
        length = tf.cast(mask, tf.int32)
        positions = tf.maximum(tf.cumsum(length, axis=1) - 1, 0)  # from each row's first token
        turns = self._turns(positions)  # [batch, 1, time, depth]
        layout = Padded(embeddings)
        causal = causal_bias(tf.shape(mask)[1])
        attention = Attention(layout, tf.maximum(causal + bias, MASKED), turns, keep=True)
        room = self._room([layout.texts, self.key_heads, layout.columns, self.depth])
        attend = _PromptAttention(attention, (room(), room()), self.fixed_shapes)
        states = self._transformed(embeddings, positions, attend, None)
        last = layout.padded(states, False)[:, -1]  # [batch, hidden]
        keys, values = attend.cache
        cache = PromptCache(keys, values, bias, tf.reduce_sum(length, axis=1))
        return self._logits(last, self._routes(tf.shape(last)[0])), cache

    def read(
        self, embeddings: Any, positions: Any, prompt: PromptCache, written: WrittenCache
    ) -> tuple[Any, WrittenCache]:
        """Read the next tokens of every sample.

        Each token's place in the cache follows from its position: the previous content is overwritten, and
        later places are ignored, so that rejected tokens need not be removed.

        Args:
            embeddings: float32 [batch, samples, columns, hidden], without positions.
            positions: int32 [batch, samples, columns], consecutive.
            prompt: cache of the prompts.
            written: cache of the previous step.

        Returns:
            Logits after every token, float32 [batch * samples * columns, vocabulary], and the next cache.
        """
        at = positions - prompt.length[:, None, None]
        turns = self._turns(tf.reshape(positions, [-1]))  # [tokens, 1, depth]
        groups = self.heads // self.key_heads
        attend = _CachedAttention(prompt, written, at, groups, turns, self.fixed_shapes)
        routes = self._routes(tf.size(positions))
        states = self._transformed(embeddings, positions, attend, routes)
        return self._logits(states, routes), WrittenCache(*attend.cache)

    def nothing_written(self, batch: Any, samples: int, room: int) -> WrittenCache:
        """The cache before the first token, for at most `room` tokens per sample."""
        new = self._room([batch, self.key_heads, samples, room, self.depth])
        return WrittenCache(new(), new())

    def _room(self, sizes: list[Any]) -> Callable[[], Any]:
        """Makes tensors of zeros, float32 [layers, *sizes].

        Each has its own memory, which can be written to: `tf.zeros` may become a constant of the graph, or
        share one tensor with others like it.
        """
        shape = [self.layer_count, *sizes]

        def new() -> Any:
            if self.fixed_shapes:
                return tf.zeros(shape)
            empty = tf.raw_ops.Empty(shape=tf.stack(shape), dtype=tf.float32, init=True)
            return tf.ensure_shape(empty, [size if isinstance(size, int) else None for size in shape])

        return new

    def _routes(self, rows: Any) -> Routes | None:
        return None if self.probe is None else self.probe.routes(rows)

    def _turns(self, positions: Any) -> tuple[Any, Any] | None:
        if self.rotary_base is None:
            return None
        cosine, sine = rotary_turns(positions, self.depth, self.rotary_base)
        return cosine[:, None], sine[:, None]

    def _transformed(self, embeddings: Any, positions: Any, attend: Any, routes: Routes | None) -> Any:
        """States [tokens, hidden] after the last layer; of mean 0 if norms subtract it."""
        if self.centred:
            embeddings = _centred(embeddings)
        if self.rotary_base is None:
            embeddings += tf.gather(self.outer["positions"], positions)
        states = tf.reshape(embeddings, [-1, self.hidden])

        at_once = max(size for size in _AT_ONCE if self.layer_count % size == 0)

        def through(number: Any, states: Any, *cache: Any) -> tuple[Any, ...]:
            attend.cache = cache
            for layer in range(at_once):
                states = transformed(_Layer(self, number + layer, routes), states, attend)
            return (number + at_once, states, *attend.cache)

        state = (0, states, *attend.cache)
        if self.unrolled:
            for _ in range(0, self.layer_count, at_once):
                state = through(*state)
        else:
            state = tf.while_loop(
                lambda number, *_: number < self.layer_count,
                through,
                state,
                shape_invariants=(
                    tf.TensorShape([]),
                    tf.TensorShape([None, self.hidden]),
                    *(part.shape for part in attend.cache),
                ),
                parallel_iterations=1,
            )
        _, states, *attend.cache = state
        return states

    def _logits(self, states: Any, routes: Routes | None) -> Any:
        states = _normalized(states, self.epsilon) * self.outer["output_scale"]
        if self.centred:
            states += self.outer["output_offset"]
        return _product(states, self.outer, "output", routes)


class _PromptAttention:
    """The attention of a prompt, called as `genre_tf.layers.attention.Attention` is.

    `cache` are the keys and values of the layers called so far, each float32 [layers, batch, key heads, time,
    depth].
    """

    def __init__(self, attention: Attention, cache: Sequence[Any], fixed_shapes: bool) -> None:
        self.cache = cache
        self._attention, self._fixed_shapes = attention, fixed_shapes

    def __call__(self, fused: Any, layer: Heads, training: bool | None = None) -> Any:
        """Attend: queries, keys and values [tokens, ...] side by side -> [tokens, heads * depth]."""
        mixed = self._attention(fused, layer, training)
        seen = self._attention.seen.pop()
        self.cache = [
            _written(cache, tf.reshape(layer.number, [1]), new[None], self._fixed_shapes)
            for cache, new in zip(self.cache, seen, strict=True)
        ]
        return mixed


class _CachedAttention:
    """The attention of one step, called as `genre_tf.layers.attention.Attention` is.

    The tensors of `written` are no longer valid after the step; `cache` has what is written so far. `at`,
    int32 [batch, samples, columns], is the place of each new token in the cache. Query heads that share a key
    head, `groups` of them, are treated as further queries of it.
    """

    def __init__(
        self,
        prompt: PromptCache,
        written: WrittenCache,
        at: Any,
        groups: int,
        turns: tuple[Any, Any] | None = None,
        fixed_shapes: bool = False,
    ) -> None:
        self.prompt, self.groups, self.turns = prompt, groups, turns
        self.cache: Sequence[Any] = written
        self._fixed_shapes = fixed_shapes
        sizes = zip(written.keys.shape, tf.unstack(tf.shape(written.keys)), strict=True)
        _, batch, heads, samples, room, depth = (
            static if static is not None else dynamic for static, dynamic in sizes
        )
        columns = at.shape[2] if at.shape[2] is not None else tf.shape(at)[2]
        sample = tf.range(samples)[None, :, None, None]
        head = tf.range(batch)[:, None, None, None] * heads + tf.range(heads)  # [batch, 1, 1, heads]
        index = (head * samples + sample) * room + at[..., None]  # [batch, samples, columns, heads]
        # Rows of a cache flattened to [.., depth]:
        self._index = tf.reshape(index, [-1])  # [batch * samples * columns * heads]
        seen = tf.range(room) <= at[..., None]  # [batch, samples, columns, room]
        if groups > 1:
            seen = tf.repeat(seen, groups, axis=2)  # [batch, samples, queries, room]
        self._bias = tf.where(seen, 0.0, MASKED)[:, None]
        self._rows = batch * heads * samples * room  # of one layer
        self._shape = tf.stack([batch, heads, samples, room, depth])
        self._queries = columns * groups  # of a sample per key head; static if possible
        self._together = tf.stack([batch, heads, samples * self._queries, depth])
        self._past: Any = tf.shape(prompt.bias)[-1]

    def __call__(
        self, fused: Any, layer: Heads, training: bool | None = None, dropout: Any | None = None
    ) -> Any:
        """Attend: queries, keys and values [tokens, ...] side by side -> [tokens, heads * depth]."""
        key_heads = layer.key_heads
        if self.turns is None:
            depth = fused.shape[1] // (layer.heads + 2 * key_heads)
            sizes = [layer.heads * depth, key_heads * depth, key_heads * depth]
            query, key, value = tf.split(fused, sizes, axis=1)
        else:
            by_head = tf.reshape(fused, [-1, layer.heads + 2 * key_heads, self.turns[0].shape[-1]])
            turned, value = tf.split(by_head, [layer.heads + key_heads, key_heads], axis=1)
            query, key = tf.split(rotated(turned, self.turns), [layer.heads, key_heads], axis=1)
        place = self._index + self._rows * layer.number
        self.cache = [
            self._write(cache, place, new) for cache, new in zip(self.cache, (key, value), strict=True)
        ]
        return self._attend(query, layer.number)

    def _write(self, cache: Any, place: Any, new: Any) -> Any:
        """The cache with the keys (or values) of the new tokens, [tokens, ...], in their places."""
        depth = cache.shape[-1]
        flat, new = tf.reshape(cache, [-1, depth]), tf.reshape(new, [-1, depth])
        flat = _written(flat, place, new, self._fixed_shapes)
        return tf.ensure_shape(tf.reshape(flat, tf.shape(cache)), cache.shape)

    def _attend(self, query: Any, number: Any) -> Any:
        keys, values = (cache[number] for cache in self.cache)
        of_prompt = self.prompt.keys[number], self.prompt.values[number]
        heads, samples, depth = keys.shape[1], keys.shape[2], keys.shape[4]
        of_key_head = self.groups * depth
        together = self._together
        single = samples == 1 and isinstance(self._queries, int) and self._queries == self.groups
        if single:  # heads are already in the right order
            query = tf.reshape(query, together)
        else:
            query = tf.reshape(query, [together[0], -1, heads, of_key_head])
            query = tf.reshape(tf.transpose(query, [0, 2, 1, 3]), together)
        own = tf.stack([self._shape[0], heads, samples, self._queries, -1])
        to_prompt = tf.matmul(query, of_prompt[0], transpose_b=True) + self.prompt.bias
        to_written = tf.matmul(tf.reshape(query, own), keys, transpose_b=True) + self._bias
        to_written = tf.reshape(to_written, tf.concat([together[:3], [-1]], 0))
        weight = tf.nn.softmax(tf.concat([to_prompt, to_written], axis=-1))
        on_prompt, on_written = tf.split(weight, [self._past, self._shape[3]], axis=-1)
        from_written = tf.matmul(tf.reshape(on_written, own), values)
        mixed = tf.matmul(on_prompt, of_prompt[1]) + tf.reshape(from_written, together)
        if not single:
            mixed = tf.reshape(mixed, [together[0], heads, -1, of_key_head])
            mixed = tf.transpose(mixed, [0, 2, 1, 3])
        return tf.reshape(mixed, [-1, heads * of_key_head])


class _Layer:
    """One layer during one pass; see `genre_tf.layers.block.Weights`."""

    norm_first = True

    def __init__(self, model: CachedDecoder, number: Any, routes: Routes | None) -> None:
        self.model, self.number, self.routes = model, number, routes
        self.heads, self.key_heads = model.heads, model.key_heads
        self.additions = model.additions[number] if model.unrolled else {}

    def norm(self, part: str, flat: Any, training: bool | None) -> Any:
        return _normalized(flat, self.model.epsilon)

    def attended(self, flat: Any, attend: Attend, training: bool | None) -> Any:
        fused = self._product(flat, "fused")
        mixed = attend(fused, self)
        if "attention" in self.additions:
            queries = fused[:, : self.heads * self.model.depth]
            mixed += self.additions["attention"].update(queries)
        return self._summand("project", mixed)

    def fed_forward(self, flat: Any, training: bool | None) -> Any:
        wide = self._product(flat, "expand")
        if self.model.activation is None:
            gate, wide = tf.split(wide, 2, axis=1)
            wide = gate * tf.sigmoid(gate) * wide
        else:
            wide = self.model.activation(wide)
        return self._summand("contract", wide)

    def _summand(self, name: str, states: Any) -> Any:
        found = self._product(states, name)
        if name in self.additions:
            found += self.additions[name].update(found)
            found = _centred(found) if self.model.centred else found
        return found

    def _product(self, states: Any, name: str) -> Any:
        return _product(states, self.model.layers, name, self.routes, self.number)


def _normalized(states: Any, epsilon: float) -> Any:
    """Normalized without scale and shift, which are merged into the next product."""
    return states * tf.math.rsqrt(tf.reduce_mean(states * states, -1, keepdims=True) + epsilon)


def _product(
    states: Any, weights: dict[str, Any], name: str, routes: Routes | None, layer: Any | None = None
) -> Any:
    found = weights[f"{name}_kernel"](states, routes, layer)
    bias = weights.get(f"{name}_bias")
    return found if bias is None else found + of_layer(bias, layer)


def _written(tensor: Any, rows: Any, new: Any, fixed_shapes: bool) -> Any:
    """The tensor with other rows of its first axis, in its own memory: `rows`, int32 [n], become `new`."""
    if fixed_shapes:
        return tf.tensor_scatter_nd_update(tensor, rows[:, None], new)
    found = tf.raw_ops.InplaceUpdate(x=tensor, i=rows, v=new)
    return tf.ensure_shape(found, tensor.shape)


def _outer_weights(layers: LanguageLayers) -> dict[str, Any]:
    norm = norm_of(layers.backbone.layer_norm)
    # The norm is not merged into the output kernel, so that its columns are the token embeddings.
    found = {
        "output_kernel": tf.transpose(layers.merged_embeddings()),  # [hidden, vocabulary]
        "output_scale": tf.convert_to_tensor(norm.scale),
    }
    if norm.offset is not None:
        found["output_offset"] = tf.convert_to_tensor(norm.offset)
    if layers.rotary_base is None:
        table = layers.backbone.position_embedding.position_embeddings
        found["positions"] = _centred(tf.convert_to_tensor(table))
    return found


def _stacked(blocks: Sequence[Block]) -> dict[str, Any]:
    """The weights of all layers, float32 [layers, ...] by name."""
    found: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        for name, value in _weights(block).items():
            if number == 0:
                found[name] = np.empty([len(blocks), *value.shape], np.float32)
            found[name][number] = value
    return found


def _weights(block: Block) -> dict[str, Any]:
    """The weights of a layer: kernels [inputs, outputs] and biases [outputs]."""
    parts, scale = block.parts, block.depth**-0.5  # of the scores, merged into the query
    fused = _joined(block, ("query", "key", "value"), (scale, 1.0, 1.0))
    expand = _joined(block, ("expand",) if parts.gate is None else ("gate", "expand"))
    before_sum = {name: _joined(block, (name,)) for name in ("project", "contract")}
    if parts.attention_norm.offset is not None:
        before_sum = {
            # An adapter reads the output as it is; what it returns is centred.
            name: pair if isinstance(block.additions.get(name), Adapter) else tuple(map(_centred, pair))
            for name, pair in before_sum.items()
        }
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
