"""Mixed precision of single layers: they compute in 16 bits, their weights stay float32."""

from collections.abc import Iterable
from typing import Any

import keras

from genre_tf.errors import InputError

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_MARK = "gradient_passes_float16"


def check_precision(precision: str) -> None:
    """Refuses what is not in `PRECISIONS`.

    Raises:
        InputError: saying what can be given.
    """
    if precision not in PRECISIONS:
        raise InputError(f"Precision is one of {', '.join(PRECISIONS)}; received {precision!r}.")


def compute_in(precision: str, layer: keras.layers.Layer) -> None:
    """Lets a built layer, and every layer inside it, compute in a precision.

    Keras has a global policy for this; here it is set on the trained BERT layers alone, so that pooling,
    user tower, scores and losses stay float32.

    Args:
        precision: a policy out of `PRECISIONS`.
        layer: with float32 weights, which it keeps.

    Source: Micikevicius et al., "Mixed Precision Training", 2018.
    """
    for inner in layer._flatten_layers():
        inner.dtype_policy = keras.dtype_policies.get(precision)
    for weight in layer.weights:
        setattr(weight, _MARK, precision == "mixed_float16")


def wants_loss_scaling(weights: Iterable[Any]) -> bool:
    """Whether the gradient of any of these weights passes through float16, where small values become zero."""
    return any(getattr(weight, _MARK, False) for weight in weights)
