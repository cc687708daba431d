"""Rotary positions in the layout of `transformers`: the first half of each head rotates with the second."""

from typing import Any

import tensorflow as tf


def rotary_turns(positions: Any, depth: int, base: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Factors for `rotated`.

    Args:
        positions: int32 [...].
        depth: width of a head.
        base: longest wavelength, over 2 pi tokens.

    Returns:
        Cosines and signed sines, float32 [..., depth].

    Source: Su et al., "RoFormer", 2021, equation 34.
    """
    frequency = [base ** (-2 * pair / depth) for pair in range(depth // 2)]
    angle = tf.cast(positions, tf.float32)[..., None] * tf.constant(frequency)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return tf.concat([cosine, cosine], -1), tf.concat([-sine, sine], -1)


def rotated(heads: Any, turns: tuple[Any, ...]) -> tf.Tensor:
    """Queries or keys turned by their positions: float [..., depth] -> the same."""
    cosine, sine = turns
    return heads * cosine + tf.roll(heads, heads.shape[-1] // 2, axis=-1) * sine
