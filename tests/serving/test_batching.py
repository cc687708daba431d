"""Requests that share runs: who runs with whom, how batches are filled, refused, padded and cut apart."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from genre_tf.export.server_config import BatchingParameters
from genre_tf.serving.embedded.errors import ServingError
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.servable import BatchingRunner, BatchScheduler


class Graph:
    """Doubles `x`, and remembers each run; a gate may hold runs up."""

    def __init__(self) -> None:
        self.runs: list[dict[str, np.ndarray]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.answer: Callable[[np.ndarray], np.ndarray] = lambda x: x * 2

    def run(self, feeds: dict[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        self.runs.append(feeds)
        self.entered.release()
        assert self.gate.wait(20)
        return [self.answer(feeds["x"]) for _ in fetches]

    def sizes(self) -> list[int]:
        return [len(run["x"]) for run in self.runs]


class Batched:
    """A graph behind batching, and threads to ask from."""

    def __init__(self, **parameters: Any) -> None:
        self.graph = Graph()
        self.metrics = ServerMetrics()
        found = BatchingParameters(**{"num_batch_threads": 1, **parameters})
        self.runner = BatchingRunner(BatchScheduler(found, self.metrics), self.graph.run)
        self.pool = ThreadPoolExecutor(32)

    def ask(self, values: Any, fetches: Sequence[str] = ("y",)) -> list[np.ndarray]:
        return self.runner.run({"x": np.asarray(values, np.float32)}, fetches)

    def later(self, values: Any, fetches: Sequence[str] = ("y",)) -> "Future[list[np.ndarray]]":
        """Ask from another thread, and wait until the request stands in a queue or runs."""
        before = self.count("input_batch_size_count")
        asked = self.pool.submit(self.ask, values, fetches)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if asked.done() or self.count("input_batch_size_count") != before:
                break
            time.sleep(0.001)
        time.sleep(0.01)
        return asked

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f":tensorflow:serving:batching_session:{name}", labels)

    def hold(self) -> "Future[list[np.ndarray]]":
        """Keep the only thread busy with a request."""
        self.graph.gate.clear()
        busy = self.pool.submit(self.ask, [0.0])
        assert self.graph.entered.acquire(timeout=10)
        return busy


@pytest.fixture
def make() -> Any:
    made: list[Batched] = []

    def build(**parameters: Any) -> Batched:
        made.append(Batched(**parameters))
        return made[-1]

    yield build
    for batched in made:
        batched.graph.gate.set()
        batched.pool.shutdown()


Make = Callable[..., Batched]


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(ServingError) as caught:
        call()
    return caught.value.code, caught.value.message


def test_a_lone_request_runs_at_once_and_in_its_own_thread(make: Make) -> None:
    batched = make(allowed_batch_sizes=(1, 2, 8), max_batch_size=8)
    threads: list[str] = []
    batched.graph.answer = lambda x: (threads.append(threading.current_thread().name), x + 1)[1]  # type: ignore[func-returns-value]
    assert batched.ask([1.0])[0].tolist() == [2.0]
    assert threads == [threading.current_thread().name]
    assert batched.graph.sizes() == [1]


def test_requests_that_wait_run_together_and_each_gets_its_rows(make: Make) -> None:
    batched = make(max_batch_size=8)
    busy = batched.hold()
    asked = [batched.later([number, number + 0.5][: 1 + number % 2]) for number in range(5)]
    batched.graph.gate.set()
    assert busy.result(10)[0].tolist() == [0.0]
    assert [answer.result(10)[0].tolist() for answer in asked] == [[0], [2, 3], [4], [6, 7], [8]]
    assert batched.graph.sizes() == [1, 7]


def test_a_batch_is_padded_to_an_allowed_size_with_the_last_requests_first_row(make: Make) -> None:
    batched = make(max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    busy = batched.hold()
    asked = [batched.later([1.0, 2.0]), batched.later([3.0, 4.0, 5.0])]
    batched.graph.gate.set()
    assert [answer.result(10)[0].tolist() for answer in asked] == [[2, 4], [6, 8, 10]]
    assert batched.graph.runs[1]["x"].tolist() == [1, 2, 3, 4, 5, 3, 3, 3]
    busy.result(10)
    assert batched.count("padding_size_sum", execution_batch_size="8") == 3
    assert batched.count("wrapped_run_count") == 2
    assert batched.count("processed_batch_size_sum") == 9
    assert batched.count("input_batch_size_count") == 3
    assert batched.count("queuing_latency_count", thread_pool_name="") == 3


def test_more_rows_than_a_batch_may_have_are_refused(make: Make) -> None:
    batched = make(max_batch_size=8)
    code, text = refused(lambda: batched.ask([0.0] * 9))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "9 rows, more than max_batch_size 8" in text
    assert batched.graph.runs == []


def test_a_full_queue_is_unavailable(make: Make) -> None:
    batched = make(max_batch_size=2, max_enqueued_batches=2)
    busy = batched.hold()
    waiting = [batched.later([1.0, 1.0]), batched.later([2.0])]
    code, text = refused(lambda: batched.ask([3.0, 3.0]))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert text == "the batch scheduling queue is full: 2 batches wait, at most 2 may"
    waiting.append(batched.later([4.0]))  # there is room for one row yet
    batched.graph.gate.set()
    assert [answer.result(10)[0].tolist() for answer in waiting] == [[2, 2], [4], [8]]
    assert busy.result(10)[0].tolist() == [0.0]
    assert batched.graph.sizes() == [1, 2, 2]


def test_a_batch_waits_for_others_until_its_time_is_over(make: Make) -> None:
    batched = make(max_batch_size=8, batch_timeout_us=200_000)
    asked = [batched.later([1.0]), batched.later([2.0])]
    assert [answer.result(10)[0].tolist() for answer in asked] == [[2], [4]]
    assert batched.graph.sizes() == [2]


def test_a_full_batch_does_not_wait(make: Make) -> None:
    batched = make(max_batch_size=2, batch_timeout_us=60_000_000)
    asked = [batched.later([1.0]), batched.later([2.0])]
    assert [answer.result(10)[0].tolist() for answer in asked] == [[2], [4]]


@pytest.mark.parametrize("other", ["shape", "type", "fetches"])
def test_only_requests_of_one_kind_run_together(make: Make, other: str) -> None:
    batched = make(max_batch_size=8, num_batch_threads=1)
    busy = batched.hold()
    one = batched.later([[1.0, 2.0]])
    value: Any = [[3.0, 4.0, 5.0]] if other == "shape" else [[3.0, 4.0]]
    kind = np.float64 if other == "type" else np.float32
    fetches = ("y", "z") if other == "fetches" else ("y",)
    two = batched.pool.submit(batched.runner.run, {"x": np.asarray(value, kind)}, fetches)
    batched.graph.gate.set()
    assert one.result(10)[0].tolist() == [[2, 4]]
    assert two.result(10)[0].tolist() == (np.asarray(value) * 2).tolist()
    busy.result(10)
    assert batched.graph.sizes() == [1, 1, 1]


def test_an_error_is_that_of_every_request_in_the_batch_and_the_next_one_runs(make: Make) -> None:
    batched = make(max_batch_size=8)
    busy = batched.hold()
    asked = [batched.later([1.0]), batched.later([2.0])]

    def fail(x: np.ndarray) -> np.ndarray:
        raise ServingError(grpc.StatusCode.INTERNAL, "no")

    answer, batched.graph.answer = batched.graph.answer, fail
    batched.graph.gate.set()
    for future in (busy, *asked):
        assert refused(lambda future=future: future.result(10))[1] == "no"  # type: ignore[misc]
    batched.graph.answer = answer
    assert batched.ask([3.0])[0].tolist() == [6.0]


@pytest.mark.parametrize("feeds", [{}, {"x": np.float32(1)}, {"x": np.zeros(2), "y": np.zeros(3)}])
def test_requests_that_cannot_be_batched_are_refused(make: Make, feeds: Any) -> None:
    arrays = {name: np.asarray(value) for name, value in feeds.items()}
    code, text = refused(lambda: make().runner.run(arrays, ["y"]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "one row for each row" in text


@pytest.mark.parametrize("answer", [np.sum, lambda x: x[:1]])
def test_outputs_that_are_not_one_row_each_are_refused(make: Make, answer: Any) -> None:
    batched = make()
    batched.graph.answer = answer
    code, text = refused(lambda: batched.ask([1.0, 2.0]))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "one row for each row" in text


def test_no_rows_are_run_as_they_are(make: Make) -> None:
    assert make(batch_timeout_us=60_000_000).ask([])[0].tolist() == []


def test_kinds_of_requests_are_not_remembered_without_end(make: Make) -> None:
    batched = make(max_batch_size=8)
    for width in range(1000):
        batched.ask(np.zeros((1, width)))
    assert not batched.runner._waiting


def test_hundreds_of_threads_get_their_own_answers(make: Make) -> None:
    batched = make(
        max_batch_size=16, num_batch_threads=2, max_enqueued_batches=1000, allowed_batch_sizes=(4, 16)
    )
    numbers = range(2000)
    answers = batched.pool.map(lambda number: batched.ask([number] * (1 + number % 3))[0], numbers)
    for number, answer in zip(numbers, answers, strict=True):
        assert answer.tolist() == [2.0 * number] * (1 + number % 3)
    assert set(batched.graph.sizes()) <= {4, 16}
