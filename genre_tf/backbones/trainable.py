"""Which part of a backbone is trained: whole layers, or small additions to frozen layers."""

import re
from dataclasses import dataclass
from typing import Literal

from genre_tf.errors import InputError

_ADDED = re.compile(r"(lora|adapters|prefix)\s+([1-9]\d{0,5})(?:\s+last\s+([1-9]\d{0,5}))?")
_LAST = re.compile(r"last\s+([1-9]\d{0,5})")


@dataclass(frozen=True)
class Trainable:
    """Which weights of a BERT are trained.

    Attributes:
        method: "layers" trains whole layers; "lora", "adapters" and "prefix" keep them frozen and train small
            additions to each.
        size: rank of "lora", width of "adapters", number of vectors of "prefix"; 0 for "layers".
        last: number of last layers; None: all layers (for "layers" including the embeddings).
    """

    method: Literal["layers", "lora", "adapters", "prefix"] = "layers"
    size: int = 0
    last: int | None = None


WHOLE = Trainable()
"""Train everything."""


def parse_trainable(text: str) -> Trainable:
    """Parse `none`, `last N`, `all`, `lora R`, `adapters N` or `prefix N`; the last three may add `last N`.

    Raises:
        InputError: the text is anything else.
    """
    cleaned = text.strip().lower()
    if cleaned in ("none", "all"):
        return Trainable(last=None if cleaned == "all" else 0)
    if found := _LAST.fullmatch(cleaned):
        return Trainable(last=int(found[1]))
    if found := _ADDED.fullmatch(cleaned):
        method, size, last = found.groups()
        return Trainable(method, int(size), None if last is None else int(last))  # type: ignore[arg-type]
    raise InputError(
        "trainable must be none, last N (such as last 2), all, lora R, adapters N, prefix N, "
        f"or one of the last three in some layers (such as lora 8 last 2); got {text!r}"
    )


def check_fits(trainable: Trainable, layers: int, hidden: int, max_tokens: int) -> None:
    """Check that a BERT of these sizes can be trained this way.

    Args:
        trainable: what to train.
        layers: number of layers of the BERT.
        hidden: width of its states.
        max_tokens: length of its longest input.

    Raises:
        InputError: there are fewer layers, or an addition is as large as what it modifies.
    """
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
