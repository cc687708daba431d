"""Requests that share runs of the graph, by the rules of TensorFlow Serving's batching session.

Follows batching_session.cc of TensorFlow Serving and shared_batch_scheduler.h of TensorFlow. One thing is
done otherwise: there a batch goes to a thread of a pool; here the request that opened it runs it, so that
a lone request pays for no hand-over between threads. How many run at a time is the same number.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from genre_tf.serving.batch_tensors import check_rows, joined, padded, split
from genre_tf.serving.metrics import ServerMetrics
from genre_tf.serving.parameter_files import BatchingParameters
from genre_tf.serving.statuses import ServingError, invalid_argument

Feeds = Mapping[str, np.ndarray]
Run = Callable[[dict[str, np.ndarray], Sequence[str]], list[np.ndarray]]

# Clients choose what tells queues apart (output filters, inner shapes); idle ones are forgotten beyond this.
_MOST_QUEUES = 256


class BatchScheduler:
    """What the batches of all versions share: the parameters, and how many run at a time.

    Args:
        parameters: sizes and limits.
        metrics: counts batches and what they wait.
    """

    def __init__(self, parameters: BatchingParameters, metrics: ServerMetrics) -> None:
        self.parameters = parameters
        self.metrics = metrics
        self.threads = threading.Semaphore(parameters.threads)


@dataclass(slots=True, eq=False)
class _Batch:
    """Requests that run together; the one that opened it runs it."""

    tasks: list[Feeds] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)  # when each request came
    rows: int = 0
    closed: threading.Event = field(default_factory=threading.Event)  # it is full: nobody else may join
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[list[np.ndarray]] = field(default_factory=list)
    error: BaseException | None = None


class _Queue:
    """The batches of one kind of request: those that wait to run, the last of them perhaps still open."""

    def __init__(self, limit: int) -> None:
        self.limit = limit  # rows of a batch
        self.lock = threading.Lock()
        self.waiting: list[_Batch] = []

    def join(self, task: Feeds, rows: int, most_waiting: int) -> tuple[_Batch, int]:
        """Put a request into the open batch, or into a new one where it does not fit.

        Returns:
            The batch, and the place of the request in it; who is at place 0 runs it.

        Raises:
            ServingError: too many batches wait already.
        """
        with self.lock:
            last = self.waiting[-1] if self.waiting else None
            if last is None or last.rows + rows > self.limit:
                if last is not None:
                    if len(self.waiting) >= most_waiting:
                        raise _full(len(self.waiting), most_waiting)
                    last.closed.set()
                last = _Batch()
                self.waiting.append(last)
            last.tasks.append(task)
            last.opened.append(time.perf_counter())
            last.rows += rows
            if last.rows == self.limit:
                last.closed.set()
            return last, len(last.tasks) - 1

    def take(self, batch: _Batch) -> None:
        """Take a batch out, to run it: from now on nobody joins it."""
        with self.lock:
            self.waiting.remove(batch)


class BatchingRunner:
    """Runs the requests of one version in batches.

    Args:
        scheduler: shared by all versions.
        run: runs the version's graph, from feeds and the names of fetches.
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
            fetches: tensor names.

        Returns:
            One array a fetch, [rows, …].

        Raises:
            ServingError: it cannot be batched, the queue is full, or the graph refused the batch, for
                which every request in it gets the same error, as on TensorFlow Serving.
        """
        rows = check_rows(feeds)
        self._metrics.input_rows.add(rows)
        parameters = self._parameters
        if rows > parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}"
            )
        if rows == 0:  # TensorFlow Serving's scheduler never wakes for an empty batch
            return self._run(dict(feeds), fetches)
        largest = parameters.max_execution_batch_size or parameters.max_batch_size
        if rows > largest:
            parts = [
                self._run_batched(
                    {name: value[first : first + largest] for name, value in feeds.items()}, fetches
                )
                for first in range(0, rows, largest)
            ]
            return [np.concatenate(values) for values in zip(*parts, strict=True)]
        return self._run_batched(feeds, fetches)

    def _run_batched(self, feeds: Feeds, fetches: Sequence[str]) -> list[np.ndarray]:
        queue = self._queue(feeds, fetches)
        rows = len(next(iter(feeds.values())))
        batch, place = queue.join(feeds, rows, self._parameters.max_enqueued_batches)
        if place == 0:
            self._lead(queue, batch, fetches)
        else:
            batch.done.wait()
        if batch.error is not None:
            raise batch.error
        return batch.answers[place]

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
        return split(values, [len(next(iter(task.values()))) for task in tasks], size)

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


def _full(waiting: int, most: int) -> ServingError:
    return ServingError(
        grpc.StatusCode.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently "
        f"{waiting} batches enqueued and max_enqueued_batches is {most}",
    )
