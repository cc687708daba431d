"""Requests that share runs of the graph, by the rules of TensorFlow Serving's batching session.

Follows batching_session.cc of TensorFlow Serving and shared_batch_scheduler.h of TensorFlow: a batch is given
to a thread of a pool when it opens, or when its time is over, and others join it until that thread takes it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from genre_tf.serving.batch_tensors import check_rows, joined, padded, split
from genre_tf.serving.futures import AnyFuture, settle, settled
from genre_tf.serving.in_flight import STOPPING
from genre_tf.serving.metrics import ServerMetrics
from genre_tf.serving.parameter_files import BatchingParameters
from genre_tf.serving.statuses import ServingError, invalid_argument

Feeds = Mapping[str, np.ndarray]
Values = list[np.ndarray]
Run = Callable[[dict[str, np.ndarray], Sequence[str]], Values]

# Clients choose what tells queues apart (output filters, inner shapes); idle ones are forgotten beyond this.
_MOST_QUEUES = 256


class BatchScheduler:
    """What the batches of all versions share: the parameters, and the threads that run them.

    Args:
        parameters: sizes and limits.
        metrics: counts batches and what they wait.
    """

    def __init__(self, parameters: BatchingParameters, metrics: ServerMetrics) -> None:
        self.parameters = parameters
        self.metrics = metrics
        self.threads = ThreadPoolExecutor(parameters.threads, "batch")

    def close(self) -> None:
        """Let the threads end once what waits has run."""
        self.threads.shutdown(wait=False)


@dataclass(slots=True)
class _Task:
    """One request: what goes in, when it came, and who waits for what comes out."""

    feeds: Feeds
    rows: int
    came: float
    future: AnyFuture


@dataclass(slots=True, eq=False)
class _Batch:
    """Requests that run together."""

    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    launched: bool = False  # it has been given to the threads
    timer: threading.Timer | None = None  # launches it where it does not fill up before


class _Queue:
    """The batches of one kind of request: those that wait to run, the last of them perhaps still open.

    Args:
        fetches: what its requests ask for.
        parameters: limits.
        launch: gives a batch to the threads.
    """

    def __init__(
        self,
        fetches: Sequence[str],
        parameters: BatchingParameters,
        launch: Callable[["_Queue", _Batch], None],
    ) -> None:
        self.fetches = fetches
        self._parameters = parameters
        self._limit = parameters.max_execution_batch_size or parameters.max_batch_size  # rows of a batch
        self._launch = launch
        self._lock = threading.Lock()
        self.waiting: list[_Batch] = []

    def add(self, parts: Sequence[_Task]) -> None:
        """Put the parts of a request into the open batch, or into new ones where they do not fit.

        Raises:
            ServingError: too many batches would wait; then none of its parts does.
        """
        most = self._parameters.max_enqueued_batches
        with self._lock:
            if len(self.waiting) + self._new_batches(parts) > most:
                raise _full(len(self.waiting), most)
            for task in parts:
                self._add(task)

    def _new_batches(self, parts: Sequence[_Task]) -> int:
        """How many batches would be opened for a request."""
        count, rows = 0, self.waiting[-1].rows if self.waiting else self._limit
        for task in parts:
            rows += task.rows
            if rows > self._limit:
                count, rows = count + 1, task.rows
        return count

    def _add(self, task: _Task) -> None:
        last = self.waiting[-1] if self.waiting else None
        if last is None or last.rows + task.rows > self._limit:
            if last is not None:
                self._launch_once(last)
            last = _Batch()
            self.waiting.append(last)
        last.tasks.append(task)
        last.rows += task.rows
        timeout_s = self._parameters.batch_timeout_s
        if last.rows == self._limit or not timeout_s:
            self._launch_once(last)
        elif len(last.tasks) == 1:
            last.timer = threading.Timer(timeout_s, self._time_is_over, (last,))
            last.timer.daemon = True
            last.timer.start()

    def take(self, batch: _Batch) -> None:
        """Take a batch out, to run it: from now on nobody joins it."""
        with self._lock:
            self.waiting.remove(batch)

    def _time_is_over(self, batch: _Batch) -> None:
        with self._lock:
            self._launch_once(batch)

    def _launch_once(self, batch: _Batch) -> None:
        if batch.launched:
            return
        batch.launched = True
        if batch.timer is not None:
            batch.timer.cancel()
        self._launch(self, batch)


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

    def run(self, feeds: Feeds, fetches: Sequence[str]) -> Values:
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
        futures = self._submit(feeds, fetches, Future)
        wait(futures)  # for all, or a version could be unloaded below the parts that still run
        return _assembled([future.result() for future in futures])

    async def run_async(self, feeds: Feeds, fetches: Sequence[str], new_future: Callable[[], Any]) -> Values:
        """As `run`, without a thread that waits.

        Args:
            feeds: tensor name -> value [rows, …].
            fetches: tensor names.
            new_future: makes a future of the running loop.
        """
        futures = self._submit(feeds, fetches, new_future)
        await settled(futures)
        return _assembled([future.result() for future in futures])

    def _submit(self, feeds: Feeds, fetches: Sequence[str], new_future: Callable[[], Any]) -> list[Any]:
        """Put a request into its queue, in parts where it is larger than a batch that runs."""
        rows = check_rows(feeds)
        self._metrics.input_rows.add(rows)
        parameters = self._parameters
        if rows > parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}"
            )
        largest = parameters.max_execution_batch_size or parameters.max_batch_size
        parts: list[Feeds] = [
            {name: value[first : first + largest] for name, value in feeds.items()}
            for first in range(0, rows, largest)
        ]
        came = time.perf_counter()
        tasks = [_Task(part, len(next(iter(part.values()))), came, new_future()) for part in parts or [feeds]]
        try:
            if rows:
                self._queue(feeds, fetches).add(tasks)
            else:  # nobody may join: TensorFlow Serving's scheduler never wakes for an empty batch
                self._start(tasks, self._finish, tasks, rows, fetches)
        except ServingError as error:
            settle([(task.future, error) for task in tasks])
        return [task.future for task in tasks]

    def _launch(self, queue: _Queue, batch: _Batch) -> None:
        self._start(batch.tasks, self._run_batch, queue, batch)

    def _start(self, tasks: list[_Task], call: Callable[..., None], *values: Any) -> None:
        """Let a thread of the pool call a function that settles the tasks, or settle them now."""
        try:
            self._scheduler.threads.submit(call, *values)
        except RuntimeError:  # the pool is closed
            error = ServingError(grpc.StatusCode.UNAVAILABLE, STOPPING)
            settle([(task.future, error) for task in tasks])

    def _run_batch(self, queue: _Queue, batch: _Batch) -> None:
        queue.take(batch)
        now = time.perf_counter()
        for task in batch.tasks:
            self._metrics.queuing_latency.add((now - task.came) * 1e6, "")
        self._finish(batch.tasks, batch.rows, queue.fetches)

    def _finish(self, tasks: list[_Task], rows: int, fetches: Sequence[str]) -> None:
        """Run requests together, and tell those who wait for them."""
        answers: Sequence[Values | BaseException]
        try:
            answers = self._answers(tasks, rows, fetches)
        except BaseException as error:
            answers = [error] * len(tasks)
        settle(zip([task.future for task in tasks], answers, strict=True))

    def _answers(self, tasks: list[_Task], rows: int, fetches: Sequence[str]) -> list[Values]:
        feeds: Sequence[Feeds] = [task.feeds for task in tasks]
        if not rows:
            return [self._run(dict(feeds[0]), fetches)]
        size = next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)
        self._metrics.padding_rows.add(size - rows, str(size))
        self._metrics.batch_rows.add(size)
        if self._parameters.pad_variable_length_inputs and len(feeds) > 1:
            feeds = padded(feeds)
        try:
            values = self._run(joined(feeds, size - rows), fetches)
        finally:
            self._metrics.batches.add()
        return split(values, [task.rows for task in tasks], size)

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
            return self._queues.setdefault(key, _Queue(fetches, self._parameters, self._launch))


def _assembled(parts: list[Values]) -> Values:
    if len(parts) == 1:
        return parts[0]
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def _full(waiting: int, most: int) -> ServingError:
    return ServingError(
        grpc.StatusCode.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently "
        f"{waiting} batches enqueued and max_enqueued_batches is {most}",
    )
