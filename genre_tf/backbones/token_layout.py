"""Texts as flat tokens and back: padded texts are processed without their padding.

Products, norms and feed-forward layers treat every token separately, so they need no text boundaries. Only
attention does, and it pads for itself.
"""

from typing import Any

import tensorflow as tf


def layout_of(mask: tf.Tensor) -> "Padded | Packed":
    """Choose the best flat layout for padded texts.

    Args:
        mask: bool [N, T], True for real tokens.
    """
    # XLA needs fixed shapes, which cannot depend on values.
    return Padded(mask) if tf.TensorShape(mask.shape).is_fully_defined() else Packed(mask)


class Padded:
    """Every position of N texts, including padding: N * T tokens.

    Args:
        mask: bool [N, T], True for real tokens; None if all are real.
        shape: int32 [2], that of the mask.
    """

    def __init__(self, mask: tf.Tensor | None, shape: Any = None) -> None:
        self.mask = mask
        shape = _sizes(mask) if shape is None else shape
        self.texts, self.columns = shape[0], shape[1]

    def flat(self, padded: tf.Tensor) -> tf.Tensor:
        """[N, T, ...] -> [tokens, ...]."""
        return tf.reshape(padded, [self.texts * self.columns, *padded.shape[2:]])

    def padded(self, flat: tf.Tensor, training: bool | None) -> tf.Tensor:
        """[tokens, width] -> [N, T, width]."""
        return tf.reshape(flat, [self.texts, self.columns, flat.shape[-1]])

    def positions(self) -> tf.Tensor:
        """Each token's column, int32 [tokens]."""
        return tf.tile(tf.range(self.columns), [self.texts])

    def by_head(self, flat: tf.Tensor, heads: int, training: bool | None) -> list[tf.Tensor]:
        """Queries, keys and values, [tokens, 3 * heads * width], as three of [N, heads, T, width]."""
        width = flat.shape[-1] // (3 * heads)
        split = tf.reshape(flat, [self.texts, self.columns, 3, heads, width])
        return list(tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4])))

    def joined(self, by_head: tf.Tensor, training: bool | None) -> tf.Tensor:
        """[N, heads, T, width] -> [tokens, heads * width]."""
        heads, width = by_head.shape[1], by_head.shape[3]
        return tf.reshape(tf.transpose(by_head, [0, 2, 1, 3]), [-1, heads * width])


class Packed:
    """The real tokens of N texts one after another, and the first position of each text without tokens.

    Removing padding and rearranging by heads is one gather of short rows. Its gradient is the opposite
    gather, because no row is taken twice except for padding, which has no gradient.

    Args:
        mask: bool [N, T], True for real tokens.

    Source: Zhai et al., "ByteTransformer: A High-Performance Transformer Boosted for Variable-Length
    Inputs", 2023 (the padding-free algorithm).
    """

    def __init__(self, mask: tf.Tensor) -> None:
        self.mask = mask
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
        return (
            tf.reshape(rows, [self.texts, self.columns, flat.shape[-1]])
            * tf.cast(self.real, flat.dtype)[:, :, None]
        )

    def positions(self) -> tf.Tensor:
        """Each token's column, int32 [tokens]."""
        return self.kept % self.columns

    def by_head(self, flat: tf.Tensor, heads: int, training: bool | None) -> list[tf.Tensor]:
        """Queries, keys and values, [tokens, 3 * heads * width], as three of [N, heads, T, width]."""
        rows = tf.reshape(flat, [-1, flat.shape[-1] // (3 * heads)])  # [tokens * 3 * heads, width]
        return list(tf.unstack(_moved(rows, self._to_heads(3, heads), self._from_heads(3, heads), training)))

    def joined(self, by_head: tf.Tensor, training: bool | None) -> tf.Tensor:
        """[N, heads, T, width] -> [tokens, heads * width]."""
        heads, width = by_head.shape[1], by_head.shape[3]
        if training:  # stops the gradient that the gather below would copy to padding
            by_head *= self.real[:, None, :, None]
        rows = tf.reshape(by_head, [-1, width])
        rows = _moved(rows, self._from_heads(1, heads), self._to_heads(1, heads), training)
        return tf.reshape(rows, [-1, heads * width])

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


def _sizes(mask: tf.Tensor) -> list[Any]:
    """N and T, as numbers if they are known."""
    return [tf.shape(mask)[axis] if mask.shape[axis] is None else mask.shape[axis] for axis in (0, 1)]
