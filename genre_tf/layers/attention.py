"""Self-attention over flat tokens: which tokens belong to one text, and which of them see each other.

Products, norms and feed-forward layers treat every token separately, so a transformer runs over flat tokens,
[tokens, hidden]. Only attention needs the boundaries of texts. A layout puts the tokens of a text together
(`Padded`: with padding; `Unpadded`: without); `Attention` adds who sees whom, and positions.
"""

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

from genre_tf.layers.elementwise import rotated

MASKED = -1e9  # far below any attention score, and finite, so that a row without tokens does not become NaN


class Heads(Protocol):
    """What attention must know of the layer that it serves: its position in its model, and its heads.

    Query heads that share a key and value head follow each other.
    """

    number: int
    heads: int
    key_heads: int


class Attention:
    """Softmax attention between the tokens of each text.

    Args:
        layout: which text each token belongs to.
        bias: added to the scores, float32 [N or 1, heads or 1, T or 1, T]: far below zero where a token must
            not look; None: every token sees its whole text.
        turns: rotary positions, as from `rotary_turns`, [T, depth] or [N, 1, T, depth]; None: none.
        keep: whether `seen` collects the keys and values of each layer, [N, key heads, T, depth].

    Source: Vaswani et al., "Attention Is All You Need", 2017; grouped keys: Ainslie et al., "GQA", 2023.
    """

    def __init__(
        self,
        layout: "Padded | Unpadded",
        bias: tf.Tensor | None = None,
        turns: tuple[tf.Tensor, tf.Tensor] | None = None,
        keep: bool = False,
    ) -> None:
        self.layout, self.bias, self.turns, self.keep = layout, bias, turns, keep
        self.seen: list[tuple[tf.Tensor, tf.Tensor]] = []

    def __call__(
        self,
        fused: tf.Tensor,
        layer: Heads,
        training: bool | None = None,
        dropout: Callable[..., tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Attend; `dropout` drops attention weights.

        Queries (scaled), keys and values side by side, float [tokens, (heads + 2 * key heads) * depth], give
        float [tokens, heads * depth].
        """
        query, key, value = self.layout.by_head(fused, layer.heads, layer.key_heads, training)
        if self.turns is not None:
            turns = tuple(tf.cast(turn, query.dtype) for turn in self.turns)
            query, key = rotated(query, turns), rotated(key, turns)
        if self.keep:
            self.seen.append((key, value))
        texts, columns = tf.shape(query)[0], tf.shape(query)[2]
        grouped = layer.heads != layer.key_heads
        if grouped:  # the query heads of a key head are treated as further queries of it
            query = tf.reshape(query, [texts, layer.key_heads, -1, query.shape[3]])
        scores = tf.matmul(query, key, transpose_b=True)
        if grouped:
            scores = tf.reshape(scores, [texts, layer.heads, columns, tf.shape(key)[2]])
        scores = tf.cast(scores, tf.float32)
        weights = tf.nn.softmax(scores if self.bias is None else scores + self.bias)  # [N, heads, T, keys]
        weights = tf.cast(weights, value.dtype)
        weights = weights if dropout is None else dropout(weights, training=training)
        if grouped:
            weights = tf.reshape(weights, [texts, layer.key_heads, -1, tf.shape(key)[2]])
        mixed = tf.matmul(weights, value)
        if grouped:
            mixed = tf.reshape(mixed, [texts, layer.heads, columns, value.shape[3]])
        return self.layout.joined(mixed, training)


def padding_bias(mask: tf.Tensor) -> tf.Tensor:
    """Hides padding: bool [N, T], True for real tokens -> float32 [N, 1, 1, T]."""
    return tf.where(mask, 0.0, MASKED)[:, None, None, :]


def causal_bias(time: Any) -> tf.Tensor:
    """Hides what comes after a token: float32 [time, time]."""
    return MASKED * (1.0 - tf.linalg.band_part(tf.ones([time, time]), -1, 0))


def side_by_side_bias(text: tf.Tensor, causal: bool) -> tf.Tensor:
    """Hides other texts of the same row, and if `causal` what comes after a token.

    The number of each token's text, int32 [rows, time], gives float32 [rows, 1, time, time].

    Source: Krell et al., "Efficient Sequence Packing without Cross-contamination", 2021.
    """
    seen = text[:, :, None] == text[:, None, :]
    if causal:
        place = tf.range(tf.shape(text)[1])
        seen &= place[:, None] >= place[None, :]
    return tf.where(seen, 0.0, MASKED)[:, None]


def layout_of(mask: tf.Tensor) -> "Padded | Unpadded":
    """The best layout for padded texts with a mask of real tokens, bool [N, T]."""
    # XLA needs fixed shapes, which cannot depend on values.
    return Padded(mask) if tf.TensorShape(mask.shape).is_fully_defined() else Unpadded(mask)


class Padded:
    """Every position of N texts, including padding: N * T tokens of rows [N, T, ...]."""

    def __init__(self, rows: tf.Tensor) -> None:
        self.texts, self.columns = _sizes(rows)

    def flat(self, padded: tf.Tensor) -> tf.Tensor:
        """[N, T, ...] -> [tokens, ...]."""
        return tf.reshape(padded, [self.texts * self.columns, *padded.shape[2:]])

    def padded(self, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """[tokens, width] -> [N, T, width]."""
        return tf.reshape(flat, [self.texts, self.columns, flat.shape[-1]])

    def positions(self) -> tf.Tensor:
        """Each token's column, int32 [tokens]."""
        return tf.tile(tf.range(self.columns), [self.texts])

    def by_head(self, fused: tf.Tensor, heads: int, key_heads: int, training: bool | None) -> list[tf.Tensor]:
        """Queries, keys and values side by side, as three of [N, their heads, T, depth]."""
        depth = fused.shape[-1] // (heads + 2 * key_heads)
        if heads == key_heads:
            split = tf.reshape(fused, [self.texts, self.columns, 3, heads, depth])
            return list(tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4])))
        counts = (heads, key_heads, key_heads)
        parts = tf.split(fused, [count * depth for count in counts], axis=1)
        return [
            tf.transpose(tf.reshape(part, [self.texts, self.columns, count, depth]), [0, 2, 1, 3])
            for part, count in zip(parts, counts, strict=True)
        ]

    def joined(self, by_head: tf.Tensor, training: bool | None) -> tf.Tensor:
        """[N, heads, T, depth] -> [tokens, heads * depth]."""
        heads, depth = by_head.shape[1], by_head.shape[3]
        return tf.reshape(tf.transpose(by_head, [0, 2, 1, 3]), [-1, heads * depth])


class Unpadded:
    """The real tokens of N texts one after another, and the first position of each text without tokens.

    Removing padding and rearranging by heads is one gather of short rows. Its gradient is the opposite
    gather, because no row is taken twice except for padding, which has no gradient.

    Source: Zhai et al., "ByteTransformer: A High-Performance Transformer Boosted for Variable-Length Inputs",
    2023 (the padding-free algorithm).
    """

    def __init__(self, mask: tf.Tensor) -> None:
        self.texts, self.columns = _sizes(mask)
        # A flat batch that is never empty gives every gather something to read, even for padding.
        kept = tf.reshape(mask | (tf.range(self.columns) == 0), [-1])
        self.kept = tf.cast(tf.where(kept)[:, 0], tf.int32)  # [tokens], indices into N * T
        self.place = tf.cumsum(tf.cast(kept, tf.int32)) - 1  # [N * T], indices into the tokens
        self.real = tf.reshape(tf.cast(kept, tf.float32), [self.texts, self.columns])

    def flat(self, padded: tf.Tensor) -> tf.Tensor:
        """[N, T, ...] -> [tokens, ...]."""
        return tf.gather(tf.reshape(padded, [self.texts * self.columns, *padded.shape[2:]]), self.kept)

    def padded(self, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """[tokens, width] -> [N, T, width], zero where there is no token."""
        rows = _moved(flat, self.place, self.kept, training)
        padded = tf.reshape(rows, [self.texts, self.columns, flat.shape[-1]])
        return padded * tf.cast(self.real, flat.dtype)[:, :, None]

    def positions(self) -> tf.Tensor:
        """Each token's column, int32 [tokens]."""
        return self.kept % self.columns

    def by_head(self, fused: tf.Tensor, heads: int, key_heads: int, training: bool | None) -> list[tf.Tensor]:
        """Queries, keys and values side by side, as three of [N, heads, T, depth]; `key_heads` is `heads`."""
        rows = tf.reshape(fused, [-1, fused.shape[-1] // (3 * heads)])  # [tokens * 3 * heads, depth]
        return list(tf.unstack(_moved(rows, self._to_heads(3, heads), self._from_heads(3, heads), training)))

    def joined(self, by_head: tf.Tensor, training: bool | None) -> tf.Tensor:
        """[N, heads, T, depth] -> [tokens, heads * depth]."""
        heads, depth = by_head.shape[1], by_head.shape[3]
        if training:  # stops the gradient that the gather below would copy to padding
            by_head *= tf.cast(self.real, by_head.dtype)[:, None, :, None]
        rows = tf.reshape(by_head, [-1, depth])
        rows = _moved(rows, self._from_heads(1, heads), self._to_heads(1, heads), training)
        return tf.reshape(rows, [-1, heads * depth])

    def _to_heads(self, parts: int, heads: int) -> tf.Tensor:
        """Rows of [tokens, parts, heads] in the order [parts, N, heads, T]."""
        place = tf.reshape(self.place, [1, self.texts, 1, self.columns])
        within = tf.reshape(tf.range(parts * heads), [parts, 1, heads, 1])
        return place * (parts * heads) + within

    def _from_heads(self, parts: int, heads: int) -> tf.Tensor:
        """Rows of [parts, N, heads, T] in the order [tokens, parts, heads]."""
        text, column = self.kept // self.columns, self.kept % self.columns
        place = tf.reshape(text * (heads * self.columns) + column, [-1, 1, 1])
        part = tf.range(parts) * (self.texts * heads * self.columns)
        return place + part[:, None] + tf.range(heads) * self.columns


def _moved(rows: tf.Tensor, there: tf.Tensor, back: tf.Tensor, training: bool | None) -> tf.Tensor:
    """`rows[there]`, in training with the gradient `upstream[back]`: TensorFlow's own adds row by row."""
    if not training:  # an export contains plain operations only
        return tf.gather(rows, there)

    @tf.custom_gradient
    def move(rows: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            found = tf.gather(tf.reshape(upstream, [-1, rows.shape[-1]]), back)
            return tf.reshape(found, tf.shape(rows))

        return tf.gather(rows, there), gradient

    return move(rows)


def _sizes(rows: tf.Tensor) -> list[Any]:
    """N and T, as numbers if they are known."""
    return [tf.shape(rows)[axis] if rows.shape[axis] is None else rows.shape[axis] for axis in (0, 1)]
