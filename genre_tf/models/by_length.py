"""The loop over many texts: similar lengths together, because a batch is padded to its longest text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_BATCH_TEXTS = 128  # with 32 tokens each, what two cores can process at once


def by_length(
    function: Callable[..., Sequence[tf.Tensor]],
    columns: Sequence[Any],
    texts: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[npt.NDArray[np.float32]]:
    """Run a function of columns over N rows, in batches of rows with texts of similar length.

    Args:
        function: takes one tensor [n] a column and returns tensors [n, ...].
        columns: columns of N values; N is at least 1.
        texts: number of columns, the first ones, whose lengths count.
        on_progress: called with (rows done, all rows).

    Returns:
        What the function returns for all rows, in their order: arrays [N, ...].
    """
    lengths = np.sum([[len(text) for text in column] for column in columns[:texts]], axis=0)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for start in range(0, len(order), _BATCH_TEXTS):
        rows = order[start : start + _BATCH_TEXTS]
        batch = [tf.constant([column[row] for row in rows]) for column in columns]
        parts.append([part.numpy() for part in function(*batch)])
        if on_progress:
            on_progress(min(start + _BATCH_TEXTS, len(order)), len(order))
    back = np.argsort(order, kind="stable")
    return [np.concatenate(arrays)[back] for arrays in zip(*parts, strict=True)]
