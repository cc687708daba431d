"""What of a backbone is trained: whole layers, or small additions to layers that stay as they are."""

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
        method: "layers" trains whole layers; "lora", "adapters" and "prefix" leave them as they are and
            train what they add to each.
        size: rank of "lora", width of "adapters", number of vectors of "prefix"; 0 for "layers".
        last: how many of the last layers; None for every one (for "layers" the embeddings with them).
    """

    method: Literal["layers", "lora", "adapters", "prefix"] = "layers"
    size: int = 0
    last: int | None = None


WHOLE = Trainable()
"""All of it."""


def parse_trainable(text: str) -> Trainable:
    """Reads `none`, `last N`, `all`, `lora R`, `adapters N` or `prefix N`, the last three also with `last N`.

    Raises:
        InputError: for anything else.
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
        "Trained is one of none, last N (such as last 2), all, lora R, adapters N, prefix N, "
        f"or one of the last three in some layers (such as lora 8 last 2); received {text!r}."
    )


def check_fits(trainable: Trainable, layers: int, hidden: int, max_tokens: int) -> None:
    """Refuses what a BERT of these sizes cannot do.

    Args:
        trainable: what is to be trained.
        layers: of the BERT.
        hidden: width of its states.
        max_tokens: its longest input.

    Raises:
        InputError: more layers than there are, or an addition as large as what it adds to.
    """
    if (trainable.last or 0) > layers:
        raise InputError(
            f"The backbone has {layers} layers; received last {trainable.last}. Use all of them."
        )
    most = max_tokens if trainable.method == "prefix" else hidden
    if trainable.size > most:
        raise InputError(
            f"{trainable.method} {trainable.size} is too much for this backbone: "
            f"at most {most}, usual are 4 to 64."
        )
