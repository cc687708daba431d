"""Load for a server: requests at random times that are drawn beforehand, whatever the server does.

Real readers do not wait for each other. A generator that sends its next request only after the last answer
sends fewer requests to a slower server, and so misses the very delays that readers would see (coordinated
omission). Here arrivals are a Poisson process, and a latency counts from the intended arrival of its request.

Requests are serialized beforehand and answers stay bytes, so one asyncio loop needs only a small share of a
core.
"""

import asyncio
import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from genre_tf.errors import FailureError
from genre_tf.serving.client.channels import proxy_options
from genre_tf.serving.client.messages import PREDICT

METHOD = PREDICT
"""The gRPC method; called without serializers, so requests and answers are bytes."""

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.enable_retries", 0),  # errors are counted, not hidden by a retry
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # each run has its own connection
]

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LoadResult:
    """The result of one run.

    Attributes:
        rate: intended requests per second; in a closed loop, those that were reached.
        sent: number of requests sent.
        latencies_ms: float64 [answers], time from the intended arrival to the answer, in order of arrival.
        errors: gRPC status name -> number of requests.
        seconds: time from the first intended arrival to the last answer.
        drain_s: time from the last intended arrival to the last answer, needed for the remaining queue.
        late_ms: 99th percentile of the delay with which the generator itself sent requests; if it is not
            small compared with the latencies, this machine was too busy for the generator.
    """

    rate: float
    sent: int
    latencies_ms: Times
    errors: dict[str, int]
    seconds: float
    drain_s: float
    late_ms: float

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return sum(self.errors.values())

    def percentile_ms(self, share: float) -> float:
        """The latency in ms that `share` percent of the answers do not exceed; infinite without answers."""
        return float(np.percentile(self.latencies_ms, share)) if len(self.latencies_ms) else float("inf")


def poisson_arrivals(rate: float, count: int, seed: int = 0) -> Times:
    """Arrival times of a Poisson process, `rate` per second, in seconds from the start: float64 [count]."""
    return np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, count))


def open_loop(
    address: str,
    requests: Sequence[bytes],
    rate: float,
    count: int,
    *,
    timeout_s: float = 30.0,
    seed: int = 0,
) -> LoadResult:
    """Send requests at random times.

    Args:
        address: gRPC address of the server, HOST:PORT.
        requests: serialized PredictRequests, sent in turn.
        rate: mean requests per second.
        count: number of requests.
        timeout_s: seconds after which a request counts as an error.
        seed: seed of the arrival times.
    """
    arrivals = poisson_arrivals(rate, count, seed)
    return asyncio.run(_drive(address, requests, arrivals, rate, timeout_s))


def closed_loop(
    address: str, requests: Sequence[bytes], count: int, *, at_once: int = 1, timeout_s: float = 120.0
) -> LoadResult:
    """Send each request when an earlier one is answered; measures a lone reader's latency, or the capacity.

    Args:
        address: gRPC address of the server, HOST:PORT.
        requests: serialized PredictRequests, sent in turn.
        count: number of requests.
        at_once: number of readers, who each wait for an answer before their next request.
        timeout_s: seconds after which a request counts as an error.
    """
    return asyncio.run(_in_turns(address, requests, count, at_once, timeout_s))


class _Sender:
    """Sends requests over one channel and records the outcomes."""

    def __init__(self, channel: Any, requests: Sequence[bytes], timeout_s: float) -> None:
        self._call = channel.unary_unary(METHOD)
        self._requests, self._timeout_s = requests, timeout_s
        self._loop = asyncio.get_running_loop()
        self.latencies: dict[int, float] = {}
        self.late: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()
        self.last_answer = 0.0

    async def send(self, number: int, intended: float) -> None:
        """Send one request; `intended` is its intended arrival by the loop's clock."""
        self.late.append(self._loop.time() - intended)
        try:
            await self._call(self._requests[number % len(self._requests)], timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            self.errors[error.code().name] += 1
        else:
            self.latencies[number] = self._loop.time() - intended
        self.last_answer = self._loop.time()

    def result(self, rate: float, started: float, last_arrival: float) -> LoadResult:
        """The result of all requests sent."""
        ordered = np.array([self.latencies[number] for number in sorted(self.latencies)])
        return LoadResult(
            rate=rate,
            sent=len(self.late),
            latencies_ms=ordered * 1e3,
            errors=dict(self.errors),
            seconds=max(self.last_answer - started, 1e-9),
            drain_s=max(self.last_answer - last_arrival, 0.0),
            late_ms=float(np.percentile(self.late, 99)) * 1e3,
        )


async def _drive(
    address: str, requests: Sequence[bytes], arrivals: Times, rate: float, timeout_s: float
) -> LoadResult:
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(address, _OPTIONS + proxy_options(address)) as channel:
        await asyncio.wait_for(channel.channel_ready(), timeout_s)
        sender = _Sender(channel, requests, timeout_s)
        started, running = loop.time(), []
        for number, arrival in enumerate(started + arrivals):
            if arrival > loop.time():
                await asyncio.sleep(arrival - loop.time())
            running.append(asyncio.create_task(sender.send(number, arrival)))
        await asyncio.gather(*running)
    return sender.result(rate, started + arrivals[0], started + arrivals[-1])


async def _in_turns(
    address: str, requests: Sequence[bytes], count: int, at_once: int, timeout_s: float
) -> LoadResult:
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(address, _OPTIONS + proxy_options(address)) as channel:
        await asyncio.wait_for(channel.channel_ready(), timeout_s)
        sender = _Sender(channel, requests, timeout_s)
        numbers, started = iter(range(count)), loop.time()

        async def reader() -> None:
            for number in numbers:
                await sender.send(number, loop.time())

        await asyncio.gather(*(reader() for _ in range(at_once)))
    return sender.result(count / (sender.last_answer - started), started, sender.last_answer)


_GREATEST_FACTOR = 1.5  # open-loop rates do not exceed closed-loop throughput, except for noise
_LEAST_FACTOR = 0.3
_PATIENCE_S = 300.0


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Length and precision of the search.

    Attributes:
        seconds: length of each run.
        least_requests: minimum number of requests of each run, for low rates.
        at_once: concurrent requests for the first estimate.
        steps: number of halvings of the interval.
        backlog: most time to clear the queue after a run, as a share of the run's planned time.
    """

    seconds: float = 10.0  # a rate that is 5 % too high then leaves a queue of half a second
    least_requests: int = 40
    at_once: int = 16
    steps: int = 5  # narrows [0.3, 1.5] times the estimate to about 5 %
    backlog: float = 0.05


@dataclass(frozen=True)
class Saturation:
    """Result of a search.

    Attributes:
        rate: highest rate that the server kept up with, in requests per second.
        runs: all runs, sorted by rate.
    """

    rate: float
    runs: list[LoadResult]


def keeps_up(result: LoadResult, lone_ms: float, options: SearchOptions) -> bool:
    """Return whether a server kept up with a run: no errors, and almost no queue at its end.

    Args:
        result: result of the run.
        lone_ms: latency of a single request without load; three times as long is never too much queue.
        options: options of the search; `backlog` is the allowed queue.
    """
    planned = result.seconds - result.drain_s
    return not result.failed and result.drain_s <= max(options.backlog * planned, 3 * lone_ms / 1e3)


def find_saturation(
    address: str,
    requests: Sequence[bytes],
    lone_ms: float,
    options: SearchOptions,
    say: Callable[[str], None] = lambda line: None,
) -> Saturation:
    """Find the highest rate that a server keeps up with.

    Args:
        address: gRPC address, HOST:PORT.
        requests: serialized PredictRequests.
        lone_ms: median latency of a single request without load.
        options: options of the search.
        say: called with each progress line.

    Raises:
        FailureError: the server answers with errors, or keeps up with none of the rates.
    """
    count = max(options.least_requests, round(options.seconds / (lone_ms / 1e3)))
    estimate = closed_loop(address, requests, count, at_once=options.at_once)
    if estimate.failed:
        raise FailureError(f"{estimate.failed} of {count} requests failed: {estimate.errors}")
    low, high = _LEAST_FACTOR * estimate.throughput, _GREATEST_FACTOR * estimate.throughput
    best, runs = 0.0, []
    for step in range(options.steps):
        rate = (low * high) ** 0.5
        count = max(options.least_requests, round(rate * options.seconds))
        # The long timeout lets the server clear its queue before the next run begins.
        runs.append(open_loop(address, requests, rate, count, timeout_s=_PATIENCE_S, seed=step))
        kept = keeps_up(runs[-1], lone_ms, options)
        say(f"{rate:.4g} requests/s: p99 {runs[-1].percentile_ms(99):.4g} ms{'' if kept else ', too high'}")
        if kept:
            low = best = rate
        else:
            high = rate
    if not best:
        raise FailureError(f"the server at {address} does not keep up with {high:.3g} requests per second")
    return Saturation(best, sorted(runs, key=lambda run: run.rate))
