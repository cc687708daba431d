"""Load for a server: requests at random moments that were drawn before, whatever the server does meanwhile.

Real readers do not wait for each other. A generator that sends its next request when the last is answered
asks the less the slower the server is, and so leaves out the very delays that readers would see (coordinated
omission). Here arrivals are a Poisson process, and a latency counts from the moment at which a request was
meant to go out.

Requests are serialized beforehand and answers stay bytes, so that one asyncio loop in a small share of a
core is enough.
"""

import asyncio
import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

METHOD = "/tensorflow.serving.PredictionService/Predict"
"""Of gRPC; without serializers it carries requests and answers as bytes."""

_OPTIONS = [
    ("grpc.enable_retries", 0),  # an error is to be counted, not to be covered
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each run
]

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LoadResult:
    """What came of one run.

    Attributes:
        rate: requests a second that were meant to arrive.
        sent: requests.
        latencies_ms: of those that were answered, from their intended arrival, in order of arrival.
        errors: status name -> requests.
        seconds: from the first intended arrival to the last answer.
        drain_s: from the last intended arrival to the last answer: the queue that was left.
        late_ms: by how much the generator itself sent a request late, 99th percentile; small beside the
            latencies, or this machine had no time for the generator.
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
        """Answers a second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def failed(self) -> int:
        """Requests without an answer."""
        return sum(self.errors.values())

    def percentile_ms(self, share: float) -> float:
        """Latency that a share (0 to 100) of the answers keep to; infinite without any answer."""
        return float(np.percentile(self.latencies_ms, share)) if len(self.latencies_ms) else float("inf")


def poisson_arrivals(rate: float, count: int, seed: int = 0) -> Times:
    """Moments of arrival, seconds from the start, float64 [count]: independent, `rate` a second."""
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
    """Send requests at random moments.

    Args:
        address: HOST:PORT of gRPC.
        requests: serialized PredictRequests, sent in turn.
        rate: requests a second.
        count: how many.
        timeout_s: after which a request counts as an error.
        seed: of the moments.
    """
    arrivals = poisson_arrivals(rate, count, seed)
    return asyncio.run(_drive(address, requests, arrivals, rate, timeout_s))


def closed_loop(
    address: str, requests: Sequence[bytes], count: int, *, at_once: int = 1, timeout_s: float = 120.0
) -> LoadResult:
    """Send each request when an earlier one is answered: what a lone reader sees, or what a server can do.

    Args:
        address: HOST:PORT of gRPC.
        requests: serialized PredictRequests, sent in turn.
        count: how many.
        at_once: readers that each wait for their answer.
        timeout_s: after which a request counts as an error.
    """
    return asyncio.run(_in_turns(address, requests, count, at_once, timeout_s))


class _Sender:
    """Sends requests over one channel and keeps count of what came of them."""

    def __init__(self, channel: Any, requests: Sequence[bytes], timeout_s: float) -> None:
        self._call = channel.unary_unary(METHOD)
        self._requests, self._timeout_s = requests, timeout_s
        self._loop = asyncio.get_running_loop()
        self.latencies: dict[int, float] = {}
        self.late: list[float] = []
        self.errors: collections.Counter[str] = collections.Counter()
        self.last_answer = 0.0

    async def send(self, number: int, intended: float) -> None:
        """Send one request that was meant to go out at a moment of the loop's clock."""
        self.late.append(self._loop.time() - intended)
        try:
            await self._call(self._requests[number % len(self._requests)], timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            self.errors[error.code().name] += 1
        else:
            self.latencies[number] = self._loop.time() - intended
        self.last_answer = self._loop.time()

    def result(self, rate: float, started: float, last_arrival: float) -> LoadResult:
        """Of everything sent."""
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
    async with grpc.aio.insecure_channel(address, _OPTIONS) as channel:
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
    async with grpc.aio.insecure_channel(address, _OPTIONS) as channel:
        await asyncio.wait_for(channel.channel_ready(), timeout_s)
        sender = _Sender(channel, requests, timeout_s)
        numbers, started = iter(range(count)), loop.time()

        async def reader() -> None:
            for number in numbers:
                await sender.send(number, loop.time())

        await asyncio.gather(*(reader() for _ in range(at_once)))
    return sender.result(count / (sender.last_answer - started), started, sender.last_answer)
