"""Rows for language models: short texts side by side, with hardly any padding, and words to predict."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MASK_SHARE, KEEP_SHARE = 0.8, 0.1
"""Shares of the chosen tokens that become the mask and that stay as they are; the others become random."""

# Rows being filled at a time: enough to find room for nearly every text, and few enough that the rows of an
# epoch stay as mixed as its order.
_OPEN_ROWS = 64

Tokens = npt.NDArray[np.int32]


def pack(lengths: npt.NDArray[np.int64], width: int, order: Sequence[int]) -> list[list[int]]:
    """Which texts share a row: each goes into the fullest of the open rows that has room for it (best fit).

    Args:
        lengths: tokens of each text, int64 [texts].
        width: tokens of a row.
        order: numbers of the texts to pack, as they come.

    Returns:
        The numbers of the texts of each row, rows in the order in which they were filled.

    Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
    """
    rows: list[list[int]] = []
    room: list[tuple[int, list[int]]] = []  # tokens left in each open row, least first, and its texts
    for text in order:
        length = int(lengths[text])
        if length > width:
            raise ValueError(f"text {text} has {length} tokens, a row {width}: cut it first")
        place = bisect_left(room, length, key=lambda row: row[0])
        left, row = room.pop(place) if place < len(room) else (width, [])
        row.append(text)
        insort(room, (left - length, row), key=lambda row: row[0])
        if len(room) > _OPEN_ROWS:
            rows.append(room.pop(0)[1])
    return rows + [row for _, row in room]


def lay_out(
    columns: Sequence[Sequence[Tokens]], rows: Sequence[Sequence[int]], width: int
) -> tuple[list[Tokens], Tokens, Tokens]:
    """Packed rows as arrays.

    Args:
        columns: some values of each token (ids, labels), for each text; of equal lengths among columns.
        rows: numbers of the texts of each row.
        width: tokens of a row.

    Returns:
        The columns, int32 [rows, width] each, 0 where there is no token; the number of each token's text in
        its row, from 1, int32 [rows, width]; and its position in that text, int32 [rows, width].
    """
    out = [np.zeros((len(rows), width), np.int32) for _ in columns]
    text, position = (np.zeros((len(rows), width), np.int32) for _ in range(2))
    for row, texts in enumerate(rows):
        start = 0
        for number, which in enumerate(texts, 1):
            end = start + len(columns[0][which])
            for values, column in zip(out, columns, strict=True):
                values[row, start:end] = column[which]
            text[row, start:end] = number
            position[row, start:end] = np.arange(end - start)
            start = end
    return out, text, position


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How tokens are hidden."""

    share: float  # share of tokens to hide in each row, special ones not counted
    mask_id: int  # stands for a hidden token
    begins_word: npt.NDArray[np.bool_]  # bool [vocabulary]; a continuing piece does not begin one
    special: npt.NDArray[np.bool_]  # bool [vocabulary], tokens that are neither hidden nor drawn

    def places(self, width: int) -> int:
        """The most tokens that are hidden in a row of `width` tokens."""
        return max(1, round(self.share * width))


def mask_words(
    ids: Tokens, masking: Masking, random: np.random.Generator
) -> tuple[Tokens, npt.NDArray[np.int64]]:
    """Hide whole words of a row, int32 [n].

    Words are drawn until the share of tokens is reached; a word that would exceed it is passed over. Each
    token of a drawn word then becomes the mask (80 %) or a random token (10 %), or stays (10 %).

    Returns:
        The ids as the model sees them, int32 [n]; the places to be predicted, int64 [k], ascending.

    Source: Devlin et al. 2019, "BERT", section 3.1 and appendix A.1; whole words as in its later release.
    """
    ordinary = np.flatnonzero(~masking.special[ids])
    if not len(ordinary):
        return ids.copy(), ordinary
    # A piece after a special token always begins a word: a cut text may begin within one.
    begins = masking.begins_word[ids[ordinary]] | (np.diff(ordinary, prepend=-2) > 1)
    words = np.split(ordinary, np.flatnonzero(begins)[1:])
    budget = masking.places(len(ordinary))
    chosen: list[int] = []
    for word in random.permutation(len(words)).tolist():
        if len(chosen) + len(words[word]) <= budget:
            chosen += words[word].tolist()
        if len(chosen) == budget:
            break
    places = np.asarray(sorted(chosen), np.int64)
    draw = random.random(len(places))
    drawable = np.flatnonzero(~masking.special)
    seen = ids.copy()
    seen[places[draw < MASK_SHARE]] = masking.mask_id
    by_chance = places[draw >= MASK_SHARE + KEEP_SHARE]
    seen[by_chance] = random.choice(drawable, len(by_chance))
    return seen, places
