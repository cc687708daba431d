"""Packing: short texts side by side in rows of one length, so that a batch has hardly any padding."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Rows being filled at a time: enough to find room for nearly every text, and few enough that the rows of an
# epoch stay as mixed as its order.
_OPEN_ROWS = 64


def pack(lengths: npt.NDArray[np.int64], width: int, order: Sequence[int]) -> list[list[int]]:
    """Which texts share a row.

    Each text goes into the fullest of the open rows that has room for it (best fit).

    Args:
        lengths: tokens of each text, int64 [texts].
        width: tokens of a row.
        order: numbers of the texts to pack, as they come.

    Returns:
        The numbers of the texts of each row, rows in the order in which they were filled.

    Raises:
        ValueError: a text is longer than a row.

    Source: Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination".
    """
    rows: list[list[int]] = []
    room: list[tuple[int, list[int]]] = []  # of the open rows, least first
    for text in order:
        length = int(lengths[text])
        if length > width:
            raise ValueError(f"text {text} has {length} tokens, a row {width}: cut it first")
        place = bisect_left(room, length, key=_room_of)
        left, row = room.pop(place) if place < len(room) else (width, [])
        row.append(text)
        insort(room, (left - length, row), key=_room_of)
        if len(room) > _OPEN_ROWS:
            rows.append(room.pop(0)[1])
    return rows + [row for _, row in room]


def _room_of(open_row: tuple[int, list[int]]) -> int:
    return open_row[0]


def lay_out(
    columns: Sequence[Sequence[npt.NDArray[np.int32]]], rows: Sequence[Sequence[int]], width: int
) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
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
