"""Trained keys and values before the text, for every layer of a causal language model."""

from typing import Any, NamedTuple


class Prefix(NamedTuple):
    """Keys and values that every token sees before the text; they have no positions.

    Args:
        keys: for each layer float32 [batch, key_heads, prefix, depth]; not rotated.
        values: for each layer, the same shape.
        bias: float32 [], added to the scores of the prefix; starts at -4, which makes the prefix almost
            invisible.

    Source: Li and Liang, "Prefix-Tuning", 2021.
    """

    keys: list[Any]
    values: list[Any]
    bias: Any
