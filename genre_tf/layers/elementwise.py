"""Activations, normalizations and rotary positions; in training, with closed-form gradients.

Differentiated op by op, an activation or a normalization takes a dozen passes that are limited by memory
bandwidth; they took a quarter of a BERT training step on a CPU. In closed form there are about half as many.
Without training they are plain operations, because an export must contain no others.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

Gradient = Callable[[tf.Tensor], tf.Tensor]

_tanh_gelu = functools.partial(keras.activations.gelu, approximate=True)
# KerasHub always uses the tanh approximation of GELU; a checkpoint may have been trained with the exact one.
ACTIVATIONS = {
    "gelu": functools.partial(keras.activations.gelu, approximate=False),
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": keras.activations.relu,
}
"""Activations by their names in Hugging Face configurations."""


class Norm(NamedTuple):
    """The weights of a normalization.

    `scale` is float32 [D], `offset` too, or None: no mean is subtracted either (RMSNorm).
    """

    scale: Any
    offset: Any
    epsilon: float


def activated(x: tf.Tensor, activation: Any, training: bool | None) -> tf.Tensor:
    """`x` through one of `ACTIVATIONS`, elementwise."""
    closed = {ACTIVATIONS["gelu"]: exact_gelu, ACTIVATIONS["gelu_new"]: tanh_gelu} if training else {}
    found: tf.Tensor = closed.get(activation, activation)(x)
    return found


def normalized(x: tf.Tensor, norm: Norm, training: bool | None) -> tf.Tensor:
    """Normalization over the last axis, computed in float32: float [M, D] -> the same."""
    wide, scale = tf.cast(x, tf.float32), tf.cast(tf.convert_to_tensor(norm.scale), tf.float32)
    offset = None if norm.offset is None else tf.cast(tf.convert_to_tensor(norm.offset), tf.float32)
    epsilon = tf.constant(norm.epsilon)
    if training and offset is not None:
        found = layer_norm(wide, scale, offset, epsilon)
    elif training:
        found = rms_norm(wide, scale, epsilon)
    else:
        centred = wide if offset is None else wide - tf.reduce_mean(wide, -1, keepdims=True)
        spread = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon)
        found = centred * spread * scale
        found = found if offset is None else found + offset
    return tf.cast(found, x.dtype)


@tf.custom_gradient
def exact_gelu(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """`x` times the normal distribution function of `x`, elementwise: exact GELU.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016; without the tanh approximation.
    """
    share = 0.5 * (1.0 + tf.math.erf(x * math.sqrt(0.5)))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        density = tf.exp(-0.5 * tf.square(x)) * (1.0 / math.sqrt(2.0 * math.pi))
        return upstream * (share + x * density)

    return x * share, gradient


@tf.custom_gradient
def tanh_gelu(x: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """The tanh approximation of GELU, elementwise, as in GPT-2; source as above."""
    factor, cube = math.sqrt(2.0 / math.pi), 0.044715
    square = tf.square(x)
    bent = tf.tanh(factor * x * (1.0 + cube * square))
    share = 0.5 * (1.0 + bent)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        slope = 0.5 * factor * (1.0 - tf.square(bent)) * (1.0 + 3.0 * cube * square)
        return upstream * (share + x * slope)

    return x * share, gradient


@tf.custom_gradient
def gated_silu(
    gate: tf.Tensor, x: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]]:
    """`silu(gate)` times `x`, elementwise; keeps only these two tensors for the gradient.

    Source: Shazeer, "GLU Variants Improve Transformer", 2020 (SwiGLU).
    """

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        share = tf.sigmoid(gate)
        opened = gate * share
        return upstream * x * (share + opened * (1.0 - share)), upstream * opened

    return gate * tf.sigmoid(gate) * x, gradient


@tf.custom_gradient
def layer_norm(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor, None]]]:
    """Layer normalization over the last axis: float [M, D], [D], [D], [] -> float [M, D].

    Source: Ba et al., "Layer Normalization", 2016.
    """
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon)  # [M, 1]
    normal = centred * inverse

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, None]:
        to_scale = upstream * normal
        scaled = upstream * scale
        # The normalization cancels a common shift or scale of all values, so these have no gradient.
        shift = tf.reduce_mean(scaled, -1, keepdims=True)
        stretch = tf.reduce_mean(to_scale * scale, -1, keepdims=True)
        to_x = inverse * (scaled - shift - normal * stretch)
        return to_x, tf.reduce_sum(to_scale, 0), tf.reduce_sum(upstream, 0), None

    return normal * scale + offset, gradient


@tf.custom_gradient
def rms_norm(
    x: tf.Tensor, scale: tf.Tensor, epsilon: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, None]]]:
    """Division by the root mean square over the last axis: float [M, D], [D], [] -> float [M, D].

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon)  # [M, 1]

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
        normal = x * inverse
        to_scale = upstream * normal
        stretch = tf.reduce_mean(to_scale * scale, -1, keepdims=True)
        return inverse * (upstream * scale - normal * stretch), tf.reduce_sum(to_scale, 0), None

    return x * inverse * scale, gradient


def rotary_turns(positions: Any, depth: int, base: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Factors for `rotated`, in the layout of `transformers`: the first half of a head turns with the second.

    Positions int32 [...] and a longest wavelength (over 2 pi tokens) give cosines and signed sines, float32
    [..., depth].

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
