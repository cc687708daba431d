"""Joins the tensors of several requests into one batch, and splits the answers again.

Follows batching_session.cc and batching_util.cc of TensorFlow Serving.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import grpc
import numpy as np

from genre_tf.serving.embedded.statuses import ServingError, invalid_argument

Feeds = Mapping[str, np.ndarray]


def check_rows(feeds: Feeds) -> int:
    """The number of rows of a request: the first dimension of each of its tensors.

    Raises:
        ServingError: the tensors differ in their rows, there is no tensor, or one is a scalar.
    """
    if not feeds:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    rows = -1
    for value in feeds.values():
        if value.ndim == 0:
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        if rows not in (-1, len(value)):
            raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
        rows = len(value)
    return rows


def joined(tasks: Sequence[Feeds], padding_rows: int) -> dict[str, np.ndarray]:
    """The tensors of a batch: the rows of its requests; padding repeats the first row of the last request."""
    if len(tasks) == 1 and not padding_rows:
        return dict(tasks[0])
    return {
        name: np.concatenate(
            [task[name] for task in tasks] + [np.repeat(tasks[-1][name][:1], padding_rows, axis=0)]
        )
        for name in tasks[0]
    }


def padded(tasks: Sequence[Feeds]) -> list[Feeds]:
    """The tensors of the requests, padded to the same size in every dimension except the first.

    The padding repeats the first element of the request's own tensor.
    """
    longest = {
        name: np.max([task[name].shape[1:] for task in tasks], axis=0).astype(int).tolist()
        for name in tasks[0]
    }
    return [{name: _grown(value, longest[name]) for name, value in task.items()} for task in tasks]


def split(values: Sequence[np.ndarray], rows: Sequence[int], size: int) -> list[list[np.ndarray]]:
    """Split the answers of a batch by request.

    Args:
        values: one array per fetch, [size, …].
        rows: number of rows of each request.
        size: number of rows of the batch, including the padding at its end.

    Returns:
        For each request, one array per fetch, [rows of the request, …].

    Raises:
        ServingError: an output does not have one row for each row of the batch.
    """
    for value in values:
        if value.ndim == 0:
            raise _failed("Batched output tensor has 0 dimensions")
        if len(value) != size:
            raise _failed(
                "Batched output tensor's 0th dimension does not equal the sum of the "
                "0th dimension sizes of the input tensors"
            )
    ends = accumulate(rows)
    return [[value[end - count : end] for value in values] for count, end in zip(rows, ends, strict=True)]


def _grown(value: np.ndarray, inner: Sequence[int]) -> np.ndarray:
    if list(value.shape[1:]) == list(inner):
        return value
    grown = np.empty((len(value), *inner), value.dtype)
    grown.fill(value.flat[0])
    grown[tuple(slice(length) for length in value.shape)] = value
    return grown


def _failed(text: str) -> ServingError:
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, text)
