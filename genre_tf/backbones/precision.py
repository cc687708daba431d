"""Mixed precision of single layers: they compute in 16 bits, and their weights stay float32."""

from collections.abc import Iterable
from typing import Any

import keras

from genre_tf.errors import InputError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_MARK = "gradient_passes_float16"


def check_precision(precision: str) -> None:
    """Check that a precision is one of `PRECISIONS`.

    Raises:
        InputError: it is not; the message lists the valid ones.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")


def compute_in(precision: str, layer: keras.layers.Layer) -> None:
    """Let a built layer, and every layer inside it, compute in a precision.

    Keras has a global policy for this. Here it is only set on the trained BERT layers, so that pooling, user
    tower, scores and losses stay float32.

    Args:
        precision: one of `PRECISIONS`.
        layer: a layer with float32 weights, which it keeps.

    Source: Micikevicius et al., "Mixed Precision Training", 2018.
    """
    for inner in layer._flatten_layers():
        inner.dtype_policy = keras.dtype_policies.get(precision)
    for weight in layer.weights:
        setattr(weight, _MARK, precision == "mixed_float16")


def wants_loss_scaling(weights: Iterable[Any]) -> bool:
    """Whether the gradient of any of these weights passes through float16, where small values become zero."""
    return any(getattr(weight, _MARK, False) for weight in weights)
