"""Requests that share runs of the graph, by the rules of TensorFlow Serving's batching session.

Follows batching_session.cc of TensorFlow Serving and shared_batch_scheduler.h of TensorFlow, with one
difference: there a thread pool runs the batches; here the request that opened a batch runs it, so that a lone
request needs no hand-over between threads. The number of batches that run at once is the same.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from genre_tf.serving.embedded.batch_tensors import check_rows, joined, padded, split
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.statuses import ServingError, invalid_argument
from genre_tf.serving.operations.parameter_files import BatchingParameters

Feeds = Mapping[str, np.ndarray]
Run = Callable[[dict[str, np.ndarray], Sequence[str]], list[np.ndarray]]

# Each output filter and inner shape that clients send makes a queue; above this number idle ones are dropped.
_MOST_QUEUES = 256


class BatchScheduler:
    """Shared by the batches of all versions: the parameters, and the limit of batches that run at once.

    Args:
        parameters: sizes and limits.
        metrics: counts batches and their waiting times.
    """

    def __init__(self, parameters: BatchingParameters, metrics: ServerMetrics) -> None:
        self.parameters = parameters
        self.metrics = metrics
        self.threads = threading.Semaphore(parameters.threads)


@dataclass(slots=True, eq=False)
class _Batch:
    """Requests that run together; the request that opened the batch runs it."""

    tasks: list[Feeds] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)  # arrival time of each request (time.perf_counter)
    rows: int = 0
    closed: threading.Event = field(default_factory=threading.Event)  # set: full, no request may join
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[list[np.ndarray]] = field(default_factory=list)
    error: BaseException | None = None


class _Queue:
    """The batches of one kind of request that wait to run; the last one may still be open."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # rows of a batch
        self.lock = threading.Lock()
        self.waiting: list[_Batch] = []

    def join(self, parts: Sequence[Feeds], most_waiting: int) -> list[tuple[_Batch, int]]:
        """Add the parts of a request to the open batch, or to new ones if they do not fit.

        Returns:
            For each part its batch, and its place in it; the request at place 0 runs the batch.

        Raises:
            ServingError: too many batches would wait; in this case no part is added.
        """
        with self.lock:
            if len(self.waiting) + self._new_batches(parts) > most_waiting:
                raise _full(len(self.waiting), most_waiting)
            return [self._add(part) for part in parts]

    def _new_batches(self, parts: Sequence[Feeds]) -> int:
        """The number of batches that a request would open."""
        count, rows = 0, self.waiting[-1].rows if self.waiting else self.limit
        for part in parts:
            rows += _rows(part)
            if rows > self.limit:
                count, rows = count + 1, _rows(part)
        return count

    def _add(self, part: Feeds) -> tuple[_Batch, int]:
        last = self.waiting[-1] if self.waiting else None
        if last is None or last.rows + _rows(part) > self.limit:
            if last is not None:
                last.closed.set()
            last = _Batch()
            self.waiting.append(last)
        last.tasks.append(part)
        last.opened.append(time.perf_counter())
        last.rows += _rows(part)
        if last.rows == self.limit:
            last.closed.set()
        return last, len(last.tasks) - 1

    def take(self, batch: _Batch) -> None:
        """Remove a batch in order to run it; no request can join it afterwards."""
        with self.lock:
            self.waiting.remove(batch)


class BatchingRunner:
    """Runs the requests of one version in batches.

    Args:
        scheduler: shared by all versions.
        run: runs the version's graph, given feeds and the names of fetches.
    """

    def __init__(self, scheduler: BatchScheduler, run: Run) -> None:
        self._scheduler = scheduler
        self._parameters = scheduler.parameters
        self._metrics = scheduler.metrics
        self._run = run
        self._queues: dict[object, _Queue] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Feeds, fetches: Sequence[str]) -> list[np.ndarray]:
        """Run a request, together with others of its kind.

        Args:
            feeds: tensor name -> value [rows, …].
            fetches: names of the tensors to compute.

        Returns:
            One array per fetch, [rows, …].

        Raises:
            ServingError: the request cannot be batched, the queue is full, or the graph rejected the batch;
                then every request in the batch gets the same error, as in TensorFlow Serving.
        """
        rows = check_rows(feeds)
        self._metrics.input_rows.add(rows)
        parameters = self._parameters
        if rows > parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}"
            )
        if rows == 0:  # TensorFlow Serving's scheduler would never run an empty batch
            return self._run(dict(feeds), fetches)
        largest = parameters.max_execution_batch_size or parameters.max_batch_size
        if rows <= largest:
            return self._run_parts([feeds], fetches)[0]
        parts = [
            {name: value[first : first + largest] for name, value in feeds.items()}
            for first in range(0, rows, largest)
        ]
        return [np.concatenate(values) for values in zip(*self._run_parts(parts, fetches), strict=True)]

    def _run_parts(self, parts: Sequence[Feeds], fetches: Sequence[str]) -> list[list[np.ndarray]]:
        queue = self._queue(parts[0], fetches)
        joined_batches = queue.join(parts, self._parameters.max_enqueued_batches)
        for batch, place in joined_batches:
            if place == 0:
                self._lead(queue, batch, fetches)
        for batch, _ in joined_batches:  # all: a version must not be unloaded while parts still run
            batch.done.wait()
        for batch, _ in joined_batches:
            if batch.error is not None:
                raise batch.error
        return [batch.answers[place] for batch, place in joined_batches]

    def _lead(self, queue: _Queue, batch: _Batch, fetches: Sequence[str]) -> None:
        try:
            if self._parameters.batch_timeout_s:
                batch.closed.wait(self._parameters.batch_timeout_s)
            with self._scheduler.threads:
                queue.take(batch)
                now = time.perf_counter()
                for opened in batch.opened:
                    self._metrics.queuing_latency.add((now - opened) * 1e6, "")
                batch.answers = self._run_tasks(batch.tasks, batch.rows, fetches)
        except BaseException as error:
            batch.error = error
        finally:
            batch.done.set()

    def _run_tasks(self, tasks: list[Feeds], rows: int, fetches: Sequence[str]) -> list[list[np.ndarray]]:
        size = next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)
        self._metrics.padding_rows.add(size - rows, str(size))
        self._metrics.batch_rows.add(size)
        if self._parameters.pad_variable_length_inputs and len(tasks) > 1:
            tasks = padded(tasks)
        feeds = joined(tasks, size - rows)
        try:
            values = self._run(feeds, fetches)
        finally:
            self._metrics.batches.add()
        return split(values, [_rows(task) for task in tasks], size)

    def _queue(self, feeds: Feeds, fetches: Sequence[str]) -> _Queue:
        if self._parameters.pad_variable_length_inputs:
            inner: tuple[object, ...] = tuple(
                value.ndim if value.size else value.shape for value in feeds.values()
            )
        else:
            inner = tuple(value.shape[1:] for value in feeds.values())
        kinds = tuple(value.dtype.str for value in feeds.values())
        key = (tuple(feeds), kinds, inner, tuple(fetches))
        queue = self._queues.get(key)
        if queue is not None:
            return queue
        with self._lock:
            if len(self._queues) >= _MOST_QUEUES:
                self._queues = {kept: queue for kept, queue in self._queues.items() if queue.waiting}
            limit = self._parameters.max_execution_batch_size or self._parameters.max_batch_size
            return self._queues.setdefault(key, _Queue(limit))


def _rows(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))


def _full(waiting: int, most: int) -> ServingError:
    return ServingError(
        grpc.StatusCode.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently "
        f"{waiting} batches enqueued and max_enqueued_batches is {most}",
    )
