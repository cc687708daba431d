"""How a backbone is trained: whole layers, or small additions to frozen ones; and in which precision."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import keras

from genre_tf.errors import InputError

_ADDED = re.compile(r"(lora|adalora|adapters|prefix)\s+([1-9]\d{0,5})(?:\s+last\s+([1-9]\d{0,5}))?")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
_MARK = "gradient_passes_float16"
_LAST = re.compile(r"last\s+([1-9]\d{0,5})")


@dataclass(frozen=True)
class Trainable:
    """Which weights of a backbone are trained.

    "layers" trains whole layers; "lora" (of rank `size`), "adalora" (of that rank on average), "adapters" (of
    that width) and "prefix" (that many vectors) keep them frozen and train small additions to each; in the
    `last` layers, or None: in all (for "layers" including the embeddings).
    """

    method: Literal["layers", "lora", "adalora", "adapters", "prefix"] = "layers"
    size: int = 0
    last: int | None = None


WHOLE = Trainable()
"""Train everything."""


def parse_trainable(text: str) -> Trainable:
    """Parse none, last N or all; or lora R, adalora R, adapters N or prefix N, perhaps with last N."""
    cleaned = text.strip().lower()
    if cleaned in ("none", "all"):
        return Trainable(last=None if cleaned == "all" else 0)
    if found := _LAST.fullmatch(cleaned):
        return Trainable(last=int(found[1]))
    if found := _ADDED.fullmatch(cleaned):
        method, size, last = found.groups()
        return Trainable(method, int(size), None if last is None else int(last))  # type: ignore[arg-type]
    raise InputError(
        "trainable must be none, last N (such as last 2), all, lora R, adalora R, adapters N, prefix N, "
        f"or one of the last four in some layers (such as lora 8 last 2); got {text!r}"
    )


def check_fits(trainable: Trainable, layers: int, hidden: int, max_tokens: int) -> None:
    """Check that a backbone has enough layers, and that an addition is smaller than what it modifies."""
    if (trainable.last or 0) > layers:
        raise InputError(
            f"the backbone has {layers} layers; got last {trainable.last}. Use 'all' for all of them."
        )
    most = max_tokens if trainable.method == "prefix" else hidden
    if trainable.size > most:
        raise InputError(
            f"{trainable.method} {trainable.size} is too large for this backbone: "
            f"at most {most}; 4 to 64 are usual."
        )


def check_precision(precision: str) -> None:
    """Check that a precision is one of `PRECISIONS`; anything else is an `InputError`."""
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")


def compute_in(precision: str, layer: keras.layers.Layer) -> None:
    """Let a built layer, and every layer inside it, compute in a precision; its weights stay float32.

    Keras has a global policy for this. Here it is only set on the trained BERT layers, so that pooling, user
    tower, scores and losses stay float32.

    Source: Micikevicius et al., "Mixed Precision Training", 2018.
    """
    for inner in layer._flatten_layers():
        inner.dtype_policy = keras.dtype_policies.get(precision)
    for weight in layer.weights:
        setattr(weight, _MARK, precision == "mixed_float16")


def wants_loss_scaling(weights: Iterable[Any]) -> bool:
    """Whether the gradient of any of these weights passes through float16, where small values become zero."""
    return any(getattr(weight, _MARK, False) for weight in weights)
