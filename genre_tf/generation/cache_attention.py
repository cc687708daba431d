"""Attention of new tokens to a prompt and to their own sample's tokens, over caches of fixed size.

The shapes are the same at every step: oneDNN prepares a product again for each new shape, which costs more
than the product itself. New keys are written to the cache's own memory: a scatter in a loop copies the whole
cache, which took as long as the matrix products at eight rows.
If several query heads share a key head (grouped queries), they are treated as further queries of it.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.layers.attention import MASKED, Heads
from genre_tf.layers.elementwise import rotated


class PromptCache(NamedTuple):
    """What later tokens see of a prompt.

    Args:
        keys: for each layer float32 [batch, key heads, time, depth].
        values: for each layer, the same shape.
        bias: float32 [batch, 1, 1, time]; 0 for a token, very low for padding.
        length: int32 [batch], number of tokens in the prompt.
    """

    keys: list[Any]
    values: list[Any]
    bias: Any
    length: Any


class WrittenCache(NamedTuple):
    """What later tokens see of the tokens written so far.

    Args:
        keys: for each layer float32 [batch, key heads, samples, room, depth]; it has room for all tokens from
            the start, so that the shapes are the same at every step.
        values: for each layer, the same shape.
    """

    keys: list[Any]
    values: list[Any]


def new_cache(batch: Any, heads: int, samples: int, room: int, depth: int) -> Any:
    """Zeros float32 [batch, heads, samples, room, depth] in their own memory, which can be written to.

    `tf.zeros` may become a constant of the graph, or share one tensor with others like it.
    """
    shape = tf.stack([batch, heads, samples, room, depth])
    empty = tf.raw_ops.Empty(shape=shape, dtype=tf.float32, init=True)
    return tf.ensure_shape(empty, [None, heads, samples, room, depth])


class CachedAttention:
    """The attention of one step, called as `genre_tf.layers.attention.Attention` is.

    Args:
        prompt: the prompts.
        written: the tokens written before; its tensors are no longer valid after the step.
        at: int32 [batch, samples, columns], the place of each new token in the cache.
        groups: number of query heads that share a key head.
        turns: rotary positions of the new tokens, [tokens, 1, depth]; None: none.

    Attributes:
        grown: the written tokens, including those of the layers called so far.
    """

    def __init__(
        self,
        prompt: PromptCache,
        written: WrittenCache,
        at: Any,
        groups: int,
        turns: tuple[Any, Any] | None = None,
    ) -> None:
        self.prompt, self.written, self.groups, self.turns = prompt, written, groups, turns
        self.grown = WrittenCache([], [])
        cache = written.keys[0]
        batch, heads, samples, room, depth = (
            static if static is not None else dynamic
            for static, dynamic in zip(cache.shape, tf.unstack(tf.shape(cache)), strict=True)
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
        keys = self._write(self.written.keys[layer.number], key)
        values = self._write(self.written.values[layer.number], value)
        self.grown.keys.append(keys)
        self.grown.values.append(values)
        return self._attend(query, layer.number, keys, values)

    def _write(self, cache: Any, new: Any) -> Any:
        """The cache with the keys (or values) of the new tokens, [tokens, ...], in their places."""
        depth = cache.shape[-1]
        flat = tf.reshape(cache, [-1, depth])
        flat = tf.raw_ops.InplaceUpdate(x=flat, i=self._index, v=tf.reshape(new, [-1, depth]))
        return tf.ensure_shape(tf.reshape(flat, self._shape), cache.shape)

    def _attend(self, query: Any, number: int, keys: Any, values: Any) -> Any:
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
        to_prompt = tf.matmul(query, self.prompt.keys[number], transpose_b=True) + self.prompt.bias
        to_written = tf.matmul(tf.reshape(query, own), keys, transpose_b=True) + self._bias
        to_written = tf.reshape(to_written, tf.concat([together[:3], [-1]], 0))
        weight = tf.nn.softmax(tf.concat([to_prompt, to_written], axis=-1))
        on_prompt, on_written = tf.split(weight, [self._past, self._shape[3]], axis=-1)
        from_written = tf.matmul(tf.reshape(on_written, own), values)
        mixed = tf.matmul(on_prompt, self.prompt.values[number]) + tf.reshape(from_written, together)
        if not single:
            mixed = tf.reshape(mixed, [together[0], heads, -1, of_key_head])
            mixed = tf.transpose(mixed, [0, 2, 1, 3])
        return tf.reshape(mixed, [-1, heads * of_key_head])
