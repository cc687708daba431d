"""Directions of a text space that tell readers apart, measured on what they read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Share of an even spread in the within-reader covariance: a small log measures few directions well.
_SHRINKAGE = 0.8
_HISTORIES_AT_ONCE = 4096


_Reader = tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]  # rows of the clicks, how much each counts


class InterestSpace(NamedTuple):
    """An affine map out of a text space: `(text - centre) @ kernel`.

    Attributes:
        centre: float32 [hidden], the mean text of all clicks.
        kernel: float32 [hidden, dimension].
    """

    centre: npt.NDArray[np.float32]
    kernel: npt.NDArray[np.float32]


def interest_space(
    texts: npt.NDArray[np.floating],
    histories: Sequence[npt.NDArray[np.integer]],
    dimension: int,
    weights: Sequence[npt.NDArray[np.floating] | None] | None = None,
) -> InterestSpace:
    """Fisher's linear discriminant with readers for classes and their clicks for members.

    What two clicks of one reader have in common (the between-reader covariance) is weighed against how the
    clicks of one reader differ (the within-reader covariance). A pretrained encoder knows what texts say;
    this keeps of it what readers are loyal to. Histories hold many times more clicks than impressions do, and
    the solution is exact: no steps, no seeds.

    Args:
        texts: [articles, hidden], vectors of length one, zero where there is no text.
        histories: rows of the articles that each reader clicked; equal histories count once.
        dimension: of the space; of more than `hidden`, so many.
        weights: how much each click of each history counts, above zero; None: 1.

    Returns:
        The space; a kernel of zeros where no reader has two clicks with a text.

    Source: Fisher, "The use of multiple measurements in taxonomic problems", 1936; shrunk as in Friedman,
    "Regularized Discriminant Analysis", 1989.
    """
    hidden = texts.shape[1]
    has_text = np.abs(texts).max(axis=1) > 0
    read = {
        _counted(history, counts, has_text)
        for history, counts in zip(histories, weights or [None] * len(histories), strict=True)
    }
    loyal = [_reader(*each) for each in sorted(read)]
    loyal = [reader for reader in loyal if len(reader[0]) > 1]
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
    whitened = _inverse_root(_shrunk(total - between))
    strength, directions = np.linalg.eigh(whitened @ between @ whitened)  # ascending
    strongest = np.arange(hidden)[::-1][:dimension]
    kernel = whitened @ directions[:, strongest] * np.sqrt(np.maximum(strength[strongest], 0.0))
    return InterestSpace(centre.astype(np.float32), kernel.astype(np.float32))


def _counted(
    history: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating] | None,
    has_text: npt.NDArray[np.bool_],
) -> tuple[bytes, bytes]:
    """A history by value; lists of Python numbers would take gigabytes of a large log."""
    known = has_text[history]
    counts = b"" if weights is None else np.asarray(weights, np.float32)[known].tobytes()
    return np.asarray(history, np.int32)[known].tobytes(), counts


def _reader(history: bytes, weights: bytes) -> _Reader:
    rows = np.frombuffer(history, np.int32)
    counts = np.frombuffer(weights, np.float32).astype(np.float64) if weights else np.ones(())
    return rows, np.broadcast_to(counts, rows.shape)


def _common_moment(centred: npt.NDArray[np.float64], readers: Sequence[_Reader]) -> npt.NDArray[np.float64]:
    """Sum over readers of their clicks' number times the mean of `x yT` over pairs of two of their clicks.

    Where clicks have weights, a pair weighs the product of its two, and the number is the sum.
    """
    hidden = centred.shape[1]
    found = np.zeros((hidden, hidden))
    own = np.zeros(len(centred))  # what each click's product with itself adds, to be taken off again
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


def _shrunk(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    even = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    return (1 - _SHRINKAGE) * covariance + _SHRINKAGE * even


def _inverse_root(covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The symmetric `covariance ** -1/2`; directions without any spread are left out."""
    spread, axes = np.linalg.eigh(covariance)
    kept = spread > 1e-12 * max(spread[-1], 1e-300)
    scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, spread, 1.0)), 0.0)
    return (axes * scale) @ axes.T
