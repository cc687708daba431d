"""Directions of a text space that distinguish readers, measured on what they read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Shrinkage of the within-reader covariance to an even spread: a small log measures few directions well.
_SHRINKAGE = 0.8
_HISTORIES_AT_ONCE = 4096


_Reader = tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]  # rows of the clicks, weight of each


class InterestSpace(NamedTuple):
    """An affine map from a text space: `(text - centre) @ kernel`, float32 [hidden] and [hidden, dimension].

    The centre is the mean text vector of all clicks.
    """

    centre: npt.NDArray[np.float32]
    kernel: npt.NDArray[np.float32]


def interest_space(
    texts: npt.NDArray[np.floating],
    histories: Sequence[npt.NDArray[np.integer]],
    dimension: int,
    weights: Sequence[npt.NDArray[np.floating] | None] | None = None,
) -> InterestSpace:
    """Fisher's linear discriminant, with readers as classes and their clicks as members.

    It relates what two clicks of one reader have in common (between-reader covariance) to how the clicks of
    one reader differ (within-reader covariance). A pretrained encoder knows what texts say; this keeps the
    part that readers stay interested in. Histories contain many more clicks than impressions do, and the
    solution is exact: no steps, no seeds. The kernel is zero if no reader has two clicks with a text.

    `texts` are vectors of length one, or zero without a text, [articles, hidden]. Histories are rows of the
    articles that each reader clicked, perhaps with weights above zero; equal ones count once.

    Source: Fisher, "The use of multiple measurements in taxonomic problems", 1936; shrunk as in Friedman,
    "Regularized Discriminant Analysis", 1989.
    """
    hidden = texts.shape[1]
    has_text = np.abs(texts).max(axis=1) > 0
    read = set()  # of bytes: lists of Python numbers would take gigabytes for a large log
    for history, counts in zip(histories, weights or [None] * len(histories), strict=True):
        known = has_text[history]
        weighed = b"" if counts is None else np.asarray(counts, np.float32)[known].tobytes()
        read.add((np.asarray(history, np.int32)[known].tobytes(), weighed))
    loyal: list[_Reader] = []
    for clicked, weighed in sorted(read):
        rows = np.frombuffer(clicked, np.int32)
        counts = np.frombuffer(weighed, np.float32).astype(np.float64) if weighed else np.ones(())
        if len(rows) > 1:
            loyal.append((rows, np.broadcast_to(counts, rows.shape)))
    if not loyal:
        kernel = np.zeros((hidden, min(dimension, hidden)), np.float32)
        return InterestSpace(np.zeros(hidden, np.float32), kernel)
    rows, counts = (np.concatenate(column) for column in zip(*loyal, strict=True))
    times_read = np.bincount(rows, weights=counts, minlength=len(texts))
    clicks = times_read.sum()
    centre = times_read @ texts / clicks  # [hidden]
    centred = texts.astype(np.float64) - centre
    between = _common_moment(centred, loyal) / clicks  # [hidden, hidden]
    total = (centred * times_read[:, None]).T @ centred / clicks
    within = total - between
    even = np.eye(hidden) * np.trace(within) / hidden
    spread, axes = np.linalg.eigh((1 - _SHRINKAGE) * within + _SHRINKAGE * even)
    kept = spread > 1e-12 * max(spread[-1], 1e-300)  # directions without variance are left out
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, spread, 1.0)), 0.0)
    whitened = (axes * scale) @ axes.T  # the symmetric inverse root
    strength, directions = np.linalg.eigh(whitened @ between @ whitened)  # ascending
    strongest = np.arange(hidden)[::-1][:dimension]
    kernel = whitened @ directions[:, strongest] * np.sqrt(np.maximum(strength[strongest], 0.0))
    return InterestSpace(centre.astype(np.float32), kernel.astype(np.float32))


def _common_moment(centred: npt.NDArray[np.float64], readers: Sequence[_Reader]) -> npt.NDArray[np.float64]:
    """Sum over readers of their number of clicks times the mean of `x yT` over pairs of two of their clicks.

    If clicks have weights, a pair has the product of its two weights, and the number is the sum of weights.
    """
    hidden = centred.shape[1]
    found = np.zeros((hidden, hidden))
    own = np.zeros(len(centred))  # the product of each click with itself, to be subtracted
    for start in range(0, len(readers), _HISTORIES_AT_ONCE):
        some = readers[start : start + _HISTORIES_AT_ONCE]
        lengths = np.asarray([len(history) for history, _ in some])
        rows, counts = (np.concatenate(column) for column in zip(*some, strict=True))
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        sums = np.add.reduceat(centred[rows] * counts[:, None], first, axis=0)  # [readers, hidden]
        clicks = np.add.reduceat(counts, first)
        share = 1.0 / (clicks - np.add.reduceat(counts**2, first) / clicks)  # 1 / (n - 1) without weights
        found += (sums * share[:, None]).T @ sums
        own += np.bincount(rows, weights=np.repeat(share, lengths) * counts**2, minlength=len(centred))
    return found - (centred * own[:, None]).T @ centred
