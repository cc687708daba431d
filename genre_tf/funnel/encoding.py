"""Encode titles to article vectors inside the served graph, with bounded time and memory."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_CHUNK_TITLES = 256  # titles encoded at a time, so that one long request cannot use up a server's memory


def encode_titles(titles: tf.Tensor, *encoders: Any) -> list[tf.Tensor]:
    """Encode titles; equal titles are encoded once.

    Args:
        titles: string [M].
        encoders: `NewsEncoder`s; frozen layers that they share are computed once.

    Returns:
        One float32 [M, D] for each encoder.
    """
    different, place = tf.unique(titles)
    # Without any title a blank one is encoded, because tokenizer and loop need at least one.
    different = tf.concat([different, tf.fill([tf.cast(tf.size(titles) == 0, tf.int32)], "")], 0)
    chunks = (tf.size(different) + _CHUNK_TITLES - 1) // _CHUNK_TITLES
    arrays = [_vectors_of_chunks(chunks, encoder.dimension) for encoder in encoders]

    def encode_chunk(number: tf.Tensor, *arrays: tf.TensorArray) -> list[Any]:
        texts = different[number * _CHUNK_TITLES : (number + 1) * _CHUNK_TITLES]
        vectors = _encode(texts, encoders)
        written = [array.write(number, part) for array, part in zip(arrays, vectors, strict=True)]
        return [number + 1, *written]

    _, *arrays = tf.while_loop(
        lambda number, *_: number < chunks, encode_chunk, [tf.constant(0), *arrays], parallel_iterations=1
    )
    return [tf.gather(array.concat(), place) for array in arrays]  # [M, D]


def encode_once(encoder: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that encodes texts, and encodes each tensor of texts only once however often it is called.

    Args:
        encoder: a `NewsEncoder`.

    Returns:
        A function from string [B, N] to float32 [B, N, D], valid within one trace of a graph.
    """

    @functools.cache
    def vectors(texts: Any) -> tf.Tensor:
        shape = tf.shape(texts.deref())
        (encoded,) = encode_titles(tf.reshape(texts.deref(), [-1]), encoder)
        return tf.reshape(encoded, [shape[0], shape[1], encoder.dimension])

    return lambda texts: vectors(texts.ref())  # tensors are not hashable, their references are


def _encode(texts: tf.Tensor, encoders: tuple[Any, ...]) -> list[tf.Tensor]:
    first = encoders[0]
    if any(encoder.frozen is not first.frozen for encoder in encoders):
        return [encoder(texts) for encoder in encoders]
    features = first.text_features(texts)
    return [encoder(features, training=False) for encoder in encoders]


def _vectors_of_chunks(chunks: tf.Tensor, dimension: int) -> tf.TensorArray:
    return tf.TensorArray(
        tf.float32, size=chunks, infer_shape=False, element_shape=[None, dimension], clear_after_read=False
    )
