"""The rate at which a server saturates, found by search, and what a run at one rate must show for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genre_tf.errors import FailureError
from genre_tf.serving.load_generator import LoadResult, closed_loop, open_loop

_GREATEST_FACTOR = 1.5  # open arrivals never do better than readers who always wait, but for noise
_LEAST_FACTOR = 0.3
_PATIENCE_S = 300.0


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How long and how finely is searched.

    Attributes:
        seconds: of each run.
        least_requests: of each run, where the rate is too low for `seconds`.
        at_once: readers of the first estimate.
        steps: halvings of the interval.
        backlog: share of a run's time that may be left over as a queue at its end.
    """

    seconds: float = 10.0  # a rate 5 % too high leaves half a second of queue then
    least_requests: int = 40
    at_once: int = 16
    steps: int = 5  # from [0.3, 1.5] of the estimate to some 5 %
    backlog: float = 0.05


@dataclass(frozen=True)
class Saturation:
    """What a search found.

    Attributes:
        rate: the highest that was kept up with, requests a second.
        runs: every run, by rate.
    """

    rate: float
    runs: list[LoadResult]


def keeps_up(result: LoadResult, lone_ms: float, options: SearchOptions) -> bool:
    """Whether a server kept up with a run: no error, and no more left at its end than is always under way.

    Args:
        result: of the run.
        lone_ms: latency of a lone request.
        options: the backlog that is let pass.
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
    """Search the highest rate that a server keeps up with.

    Args:
        address: HOST:PORT of gRPC.
        requests: serialized PredictRequests.
        lone_ms: median latency of a lone request.
        options: of the search.
        say: takes a line of progress.

    Raises:
        FailureError: the server answers with errors, or keeps up with nothing.
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
        # Patient: what a server was asked too much of is answered before the next run begins.
        runs.append(open_loop(address, requests, rate, count, timeout_s=_PATIENCE_S, seed=step))
        kept = keeps_up(runs[-1], lone_ms, options)
        say(f"{rate:.4g} requests/s: p99 {runs[-1].percentile_ms(99):.4g} ms{'' if kept else ', too many'}")
        if kept:
            low = best = rate
        else:
            high = rate
    if not best:
        raise FailureError(f"the server at {address} keeps up with not even {high:.3g} requests a second")
    return Saturation(best, sorted(runs, key=lambda run: run.rate))
