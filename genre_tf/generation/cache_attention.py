"""Attention of new tokens to a prompt and to their own sample's tokens, over caches of fixed size.

The shapes are the same at every step: oneDNN prepares a product again for each new shape, which costs more
than the product itself. New keys are written to the cache's own memory: a scatter in a loop copies the whole
cache, which took as long as the matrix products at eight rows.
If several query heads share a key head (grouped queries), they are treated as further queries of it.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.generation.cached_decoder import PromptCache
from genre_tf.generation.sampling import IMPOSSIBLE


class Places(NamedTuple):
    """Where new tokens are stored and what they see; the same for all layers.

    Args:
        index: int32 [batch * samples * columns * key heads], rows of a cache flattened to [.., depth].
        bias: float32 [batch, 1, samples, queries, room]; 0 for what a token sees, very low for everything
            else.
        shape: int32 [5], shape of a cache: batch, key heads, samples, room, depth.
        queries: queries of a sample per key head, columns * groups; static if possible.
        groups: number of query heads that share a key head.
        together: int32 [4]: batch, key heads, samples * queries, depth.
    """

    index: Any
    bias: Any
    shape: Any
    queries: Any
    groups: int
    together: Any


def places(at: Any, cache: Any, groups: int = 1) -> Places:
    """Prepare a step.

    Args:
        at: int32 [batch, samples, columns], the position of each new token.
        cache: float32 [batch, key heads, samples, room, depth], of any layer.
        groups: number of query heads that share a key head.
    """
    batch, heads, samples, room, depth = (
        static if static is not None else dynamic
        for static, dynamic in zip(cache.shape, tf.unstack(tf.shape(cache)), strict=True)
    )
    columns = at.shape[2] if at.shape[2] is not None else tf.shape(at)[2]
    sample = tf.range(samples)[None, :, None, None]
    head = tf.range(batch)[:, None, None, None] * heads + tf.range(heads)  # [batch, 1, 1, heads]
    index = (head * samples + sample) * room + at[..., None]  # [batch, samples, columns, heads]
    seen = tf.range(room) <= at[..., None]  # [batch, samples, columns, room]
    if groups > 1:
        seen = tf.repeat(seen, groups, axis=2)  # [batch, samples, queries, room]
    return Places(
        index=tf.reshape(index, [-1]),
        bias=tf.where(seen, 0.0, IMPOSSIBLE)[:, None],
        shape=tf.stack([batch, heads, samples, room, depth]),
        queries=columns * groups,
        groups=groups,
        together=tf.stack([batch, heads, samples * columns * groups, depth]),
    )


def new_cache(batch: Any, heads: int, samples: int, room: int, depth: int) -> Any:
    """Zeros float32 [batch, heads, samples, room, depth] in their own memory, which can be written to.

    `tf.zeros` may become a constant of the graph, or share one tensor with others like it.
    """
    shape = tf.stack([batch, heads, samples, room, depth])
    empty = tf.raw_ops.Empty(shape=shape, dtype=tf.float32, init=True)
    return tf.ensure_shape(empty, [None, heads, samples, room, depth])


def write(cache: Any, new: Any, where: Places) -> Any:
    """Write the keys (or values) of new tokens to their places; the old cache is no longer valid.

    Args:
        cache: float32 [batch, key heads, samples, room, depth], from `new_cache`, or a copy.
        new: float32 [batch * samples * columns, key heads * depth], or any shape with this order of values.
        where: result of `places`.

    Returns:
        The cache, of the same shape.
    """
    depth = cache.shape[-1]
    flat = tf.reshape(cache, [-1, depth])
    flat = tf.raw_ops.InplaceUpdate(x=flat, i=where.index, v=tf.reshape(new, [-1, depth]))
    return tf.ensure_shape(tf.reshape(flat, where.shape), cache.shape)


def attend(query: Any, prompt: PromptCache, index: int, keys: Any, values: Any, where: Places) -> Any:
    """The attention output of new tokens over a prompt and their own sample.

    Args:
        query: float32 [batch * samples * columns, heads * depth], or any shape with this order of values;
            scaled. Heads that share a key head are adjacent.
        prompt: cache from the prefill.
        index: number of the layer in `prompt`.
        keys: float32 [batch, key heads, samples, room, depth], including the new tokens.
        values: the same shape.
        where: result of `places`.

    Returns:
        float32 [batch * samples * columns, heads * depth].
    """
    heads, samples, depth = keys.shape[1], keys.shape[2], keys.shape[4]
    of_key_head = where.groups * depth
    single = samples == 1 and isinstance(where.queries, int) and where.queries == where.groups
    past: Any = tf.shape(prompt.bias)[-1]
    if single:  # heads are already in the right order
        query = tf.reshape(query, where.together)
    else:
        query = tf.reshape(query, [where.together[0], -1, heads, of_key_head])
        query = tf.reshape(tf.transpose(query, [0, 2, 1, 3]), where.together)
    own = tf.stack([where.shape[0], heads, samples, where.queries, -1])
    to_prompt = tf.matmul(query, prompt.keys[index], transpose_b=True) + prompt.bias
    to_written = tf.matmul(tf.reshape(query, own), keys, transpose_b=True) + where.bias
    to_written = tf.reshape(to_written, tf.concat([where.together[:3], [-1]], 0))
    weight = tf.nn.softmax(tf.concat([to_prompt, to_written], axis=-1))
    on_prompt, on_written = tf.split(weight, [past, where.shape[3]], axis=-1)
    from_written = tf.matmul(tf.reshape(on_written, own), values)
    mixed = tf.matmul(on_prompt, prompt.values[index]) + tf.reshape(from_written, where.together)
    if not single:
        mixed = tf.reshape(mixed, [where.together[0], heads, -1, of_key_head])
        mixed = tf.transpose(mixed, [0, 2, 1, 3])
    return tf.reshape(mixed, [-1, heads * of_key_head])
