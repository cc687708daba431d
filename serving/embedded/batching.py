"""Requests that share runs of the graph, by the rules of TensorFlow Serving's batching session.

There a thread pool runs the batches; here the request that opened a batch runs it, so that a lone request
needs no hand-over between threads. The number of batches that run at once is the same.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from genre_tf.serving.embedded.errors import ServingError, invalid_argument
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.operations.configuration import BatchingParameters

Feeds = Mapping[str, np.ndarray]
Run = Callable[[dict[str, np.ndarray], Sequence[str]], list[np.ndarray]]


class BatchScheduler:
    """Shared by the batches of all versions: the parameters, and the limit of batches that run at once."""

    def __init__(self, parameters: BatchingParameters, metrics: ServerMetrics) -> None:
        self.parameters = parameters
        self.metrics = metrics
        self.threads = threading.Semaphore(parameters.threads)


@dataclass(slots=True, eq=False)
class _Batch:
    """Requests that run together; the request that opened the batch runs it."""

    tasks: list[Feeds] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)  # arrival time of each request (time.perf_counter)
    ends: list[int] = field(default_factory=list)  # row of the batch behind those of each request
    rows: int = 0
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[list[np.ndarray]] = field(default_factory=list)
    error: BaseException | None = None


class BatchingRunner:
    """Runs the requests of one version in batches.

    Requests of one kind share batches: the same tensors, types, inner shapes and fetches. (TensorFlow Serving
    lets requests with other inner shapes share a batch, in which both then fail.)
    """

    def __init__(self, scheduler: BatchScheduler, run: Run) -> None:
        self._scheduler = scheduler
        self._parameters = scheduler.parameters
        self._metrics = scheduler.metrics
        self._run = run
        self._waiting: dict[object, list[_Batch]] = {}  # kind -> batches that wait; only the last is open
        self._lock = threading.Lock()

    def run(self, feeds: Feeds, fetches: Sequence[str]) -> list[np.ndarray]:
        """Run a request (name -> value [rows, …]) together with others; one array per fetch, [rows, …].

        Raises:
            ServingError: the request cannot be batched, too many batches wait, or the graph rejected the
                batch; then every request in the batch gets the same error, as in TensorFlow Serving.
        """
        lengths = {len(value) if value.ndim else None for value in feeds.values()}
        rows = lengths.pop() if len(lengths) == 1 else None
        if rows is None:
            raise invalid_argument(
                "with batching, the inputs must have one row for each row of the request; their shapes are "
                f"{[list(value.shape) for value in feeds.values()]}"
            )
        self._metrics.input_rows.observe(rows)
        if rows > self._parameters.max_batch_size:
            raise invalid_argument(
                f"the request has {rows} rows, more than max_batch_size {self._parameters.max_batch_size}"
            )
        if rows == 0:  # TensorFlow Serving's scheduler would never run an empty batch
            return self._run(dict(feeds), fetches)
        kind = (tuple((name, v.dtype.str, v.shape[1:]) for name, v in feeds.items()), tuple(fetches))
        with self._lock:
            batch = self._joined(kind, rows)
            place = len(batch.tasks)
            batch.tasks.append(feeds)
            batch.opened.append(time.perf_counter())
            batch.rows += rows
            batch.ends.append(batch.rows)
            if batch.rows == self._parameters.max_batch_size:
                batch.full.set()
        if place == 0:
            self._lead(kind, batch, fetches)
        batch.done.wait()
        if batch.error is not None:
            raise batch.error
        return batch.answers[place]

    def _joined(self, kind: object, rows: int) -> _Batch:
        """The open batch if the rows fit into it, otherwise a new one."""
        waiting, most = self._waiting.get(kind, []), self._parameters.max_enqueued_batches
        if waiting and waiting[-1].rows + rows <= self._parameters.max_batch_size:
            return waiting[-1]
        if len(waiting) >= most:
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                f"the batch scheduling queue is full: {len(waiting)} batches wait, at most {most} may",
            )
        if waiting:
            waiting[-1].full.set()
        self._waiting[kind] = [*waiting, _Batch()]
        return self._waiting[kind][-1]

    def _lead(self, kind: object, batch: _Batch, fetches: Sequence[str]) -> None:
        try:
            if self._parameters.batch_timeout_us:
                batch.full.wait(self._parameters.batch_timeout_us / 1e6)
            with self._scheduler.threads:
                with self._lock:  # from now on no request can join
                    self._waiting[kind].remove(batch)
                    if not self._waiting[kind]:
                        del self._waiting[kind]
                now = time.perf_counter()
                for opened in batch.opened:
                    self._metrics.queuing_latency.labels("").observe((now - opened) * 1e6)
                self._run_batch(batch, fetches)
        except BaseException as error:
            batch.error = error
        finally:
            batch.done.set()

    def _run_batch(self, batch: _Batch, fetches: Sequence[str]) -> None:
        rows, tasks = batch.rows, batch.tasks
        size = next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)
        self._metrics.padding_rows.labels(str(size)).observe(size - rows)
        self._metrics.batch_rows.observe(size)
        self._metrics.batches.inc()
        feeds = dict(tasks[0])
        if len(tasks) > 1 or size > rows:  # padding repeats the first row of the last request
            for name in feeds:
                padding = np.repeat(tasks[-1][name][:1], size - rows, axis=0)
                feeds[name] = np.concatenate([*(task[name] for task in tasks), padding])
        values = self._run(feeds, fetches)
        if any(value.ndim == 0 or len(value) != size for value in values):
            raise ServingError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "an output does not have one row for each row of the batch: this signature cannot be batched",
            )
        places = zip([0, *batch.ends], batch.ends, strict=False)
        batch.answers = [[value[start:end] for value in values] for start, end in places]
