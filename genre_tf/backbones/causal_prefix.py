"""Keys and values that stand in front of a text, for every layer of a causal language model."""

from typing import Any, NamedTuple


class Prefix(NamedTuple):
    """What every token sees in front of the text; it takes no positions.

    Args:
        keys: per layer float32 [batch, key_heads, prefix, depth]; not rotated.
        values: per layer, the same shape.
        bias: float32 [], added to the scores of the prefix; a new one starts almost unseen with -4.

    Source: Li and Liang, "Prefix-Tuning", 2021.
    """

    keys: list[Any]
    values: list[Any]
    bias: Any
