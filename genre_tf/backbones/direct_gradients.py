"""Activations and normalizations for training, with closed-form gradients.

Differentiated op by op, each of them takes a dozen passes that are limited by memory bandwidth; they took a
quarter of a BERT training step on a CPU. In closed form there are about half as many passes.
"""

import math
from collections.abc import Callable

import tensorflow as tf

Gradient = Callable[[tf.Tensor], tf.Tensor]


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
def layer_norm(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor, None]]]:
    """Layer normalization over the last axis.

    Args:
        x: float [M, D].
        scale: float [D].
        offset: float [D].
        epsilon: float [], added to the variance.

    Returns:
        float [M, D].

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
    """Division by the root mean square over the last axis.

    Args:
        x: float [M, D].
        scale: float [D].
        epsilon: float [], added to the mean square.

    Returns:
        float [M, D].

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon)  # [M, 1]

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
        normal = x * inverse
        to_scale = upstream * normal
        stretch = tf.reduce_mean(to_scale * scale, -1, keepdims=True)
        return inverse * (upstream * scale - normal * stretch), tf.reduce_sum(to_scale, 0), None

    return x * inverse * scale, gradient


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
