"""The load generator: arrivals that wait for nobody, latencies that show queues, errors that are counted."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from genre_tf.benchmarks.load_generator import (
    LoadResult,
    SearchOptions,
    closed_loop,
    find_saturation,
    keeps_up,
    open_loop,
    poisson_arrivals,
)
from genre_tf.benchmarks.memory_watch import MemoryWatch, memory_slope
from genre_tf.errors import FailureError
from genre_tf.serving.client import calls
from genre_tf.serving.client.client import RECOMMENDER
from genre_tf.serving.operations.server_process import _ready_address, server_process

REQUESTS = [calls.recommend([[f"N{number}"]]).request(RECOMMENDER).SerializeToString() for number in (1, 2)]


class Slow(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers one request at a time, each after a time that is looked up by its number."""

    def __init__(self, seconds: dict[int, float], usual_s: float = 0.0) -> None:
        self.seconds, self.usual_s = seconds, usual_s
        self.asked: list[bytes] = []

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked.append(request.inputs["history"].string_val[0])
        time.sleep(self.seconds.get(len(self.asked), self.usual_s))
        return predict_pb2.PredictResponse()


@contextmanager
def serving(service: Slow) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def result(**changes: Any) -> LoadResult:
    usual: dict[str, Any] = {
        "rate": 10.0, "sent": 100, "latencies_ms": np.full(100, 5.0), "errors": {}, "seconds": 10.0,
        "drain_s": 0.01, "late_ms": 0.1,
    }  # fmt: skip
    return LoadResult(**(usual | changes))


def test_arrivals_are_a_poisson_process_that_can_be_repeated() -> None:
    arrivals = poisson_arrivals(50.0, 20_000, seed=3)
    gaps = np.diff(arrivals)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05) and gaps.std() == pytest.approx(1 / 50, rel=0.05)
    np.testing.assert_array_equal(arrivals, poisson_arrivals(50.0, 20_000, seed=3))
    assert (arrivals != poisson_arrivals(50.0, 20_000, seed=4)).all()


def test_every_request_is_answered_by_the_embedded_server(contract_server: Any) -> None:
    found = open_loop(contract_server.grpc_address, REQUESTS, rate=200.0, count=60)
    assert (found.sent, found.failed, len(found.latencies_ms)) == (60, 0, 60)
    assert found.throughput == pytest.approx(60 / found.seconds)
    assert 0 < found.percentile_ms(50) <= found.percentile_ms(99)


def test_requests_are_sent_in_turn() -> None:
    service = Slow({})
    with serving(service) as address:
        closed_loop(address, REQUESTS, 5)
    assert service.asked == [b"N1", b"N2", b"N1", b"N2", b"N1"]


def test_a_stall_is_seen_by_all_who_came_meanwhile_and_not_by_one_alone() -> None:
    with serving(Slow({10: 0.8})) as address:
        waiting = closed_loop(address, REQUESTS, 100)
    with serving(Slow({10: 0.8})) as address:
        arriving = open_loop(address, REQUESTS, rate=100.0, count=100)
    assert (waiting.latencies_ms > 300).sum() == 1, "who asks only after the answer stalls once"
    assert (arriving.latencies_ms > 300).sum() > 20, "half a second brings some fifty others"


def test_errors_are_counted_by_their_names(contract_server: Any) -> None:
    missing = calls.recommend([[]]).request("no_such_model").SerializeToString()
    found = open_loop(contract_server.grpc_address, [missing, REQUESTS[0]], rate=500.0, count=10)
    assert found.errors == {"NOT_FOUND": 5} and len(found.latencies_ms) == 5 and found.failed == 5
    with serving(Slow({}, usual_s=0.5)) as address:
        late = open_loop(address, REQUESTS, rate=100.0, count=3, timeout_s=0.05)
    assert late.errors == {"DEADLINE_EXCEEDED": 3} and late.percentile_ms(50) == float("inf")


def test_a_server_keeps_up_if_no_queue_is_left() -> None:
    options = SearchOptions()
    assert keeps_up(result(), 5.0, options)
    assert not keeps_up(result(errors={"UNAVAILABLE": 1}), 5.0, options)
    assert not keeps_up(result(drain_s=2.0), 5.0, options)
    assert keeps_up(result(drain_s=2.0), 1000.0, options), "a lone request takes a second"


def test_the_saturating_rate_is_near_what_a_server_can_do() -> None:
    options = SearchOptions(seconds=1.0, steps=4, at_once=4)
    with serving(Slow({}, usual_s=0.02)) as address:  # 50 a second at most
        found = find_saturation(address, REQUESTS, 20.0, options)
    assert 15 < found.rate <= 60
    rates = [run.rate for run in found.runs]
    assert rates == sorted(rates) and len(rates) == 4


def test_a_server_of_errors_has_no_saturating_rate(contract_server: Any) -> None:
    missing = calls.recommend([[]]).request("no_such_model").SerializeToString()
    with pytest.raises(FailureError, match="requests failed"):
        find_saturation(contract_server.grpc_address, [missing], 1.0, SearchOptions(seconds=0.02))


def test_growth_of_memory_is_told_from_noise() -> None:
    noise = np.random.default_rng(0).normal(size=200)
    steady = memory_slope((500 + noise).tolist(), 0.5)
    growing = memory_slope((500 + noise + np.arange(200)).tolist(), 0.5)
    assert abs(steady.kb_a_second) <= 2 * steady.error_kb
    assert growing.kb_a_second == pytest.approx(2000, rel=0.02) and growing.error_kb < 50
    assert growing.last_mb - growing.first_mb == pytest.approx(100, abs=1)
    with pytest.raises(FailureError, match="at least 3 memory samples are needed; got 2"):
        memory_slope([1.0, 2.0], 0.5)


def test_the_memory_of_a_process_is_watched() -> None:
    kept = []
    with MemoryWatch(os.getpid(), every_s=0.02) as watch:
        for _ in range(30):
            kept.append(mmap(-1, 1_000_000))  # pages of its own: an allocator may have some left to give
            kept[-1].write(os.urandom(1_000_000))
            time.sleep(0.02)
    assert watch.slope().kb_a_second > 1000 and len(kept) == 30
    with pytest.raises(FailureError, match="cannot read the memory of a process"), MemoryWatch(2**30):
        pass


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"did not start.*empty"), server_process(tmp_path / "empty"):
        pass


def test_a_server_that_is_never_ready_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    hanging = [sys.executable, "-c", "import time; print('not yet', flush=True); time.sleep(60)"]
    started = time.monotonic()
    with (
        subprocess.Popen(hanging, stdout=subprocess.PIPE, text=True) as process,
        (tmp_path / "words").open("w+") as words,
        pytest.raises(FailureError, match="did not start"),
    ):
        _ready_address(process, words, longest_s=0.5)
    assert time.monotonic() - started < 30
