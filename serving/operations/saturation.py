"""Search the highest request rate that a server keeps up with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genre_tf.errors import FailureError
from genre_tf.serving.operations.load_generator import LoadResult, closed_loop, open_loop

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
