"""`genre bench serve`: the embedded server under open-loop load, against a naive export and a bare session.

Latencies count from the intended arrival of a request (`benchmarks/load_generator.py`). The server
runs in its own process and shares the processors with the load generator.
"""

import gc
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from genre_tf.benchmarks.exported import ExportedSignature
from genre_tf.benchmarks.latency_picture import Curve, check_picture, draw_latency
from genre_tf.benchmarks.load_generator import (
    METHOD,
    LoadResult,
    SearchOptions,
    closed_loop,
    find_saturation,
    open_loop,
)
from genre_tf.benchmarks.measuring import BenchOptions, Rate, Row, compare, medians_in_turns_ms
from genre_tf.benchmarks.memory_watch import MemoryWatch
from genre_tf.benchmarks.serve_models import NAIVE, ServedSizes, write_models
from genre_tf.benchmarks.serve_requests import Readers
from genre_tf.config import GenerationConfig
from genre_tf.contract import RECOMMENDER
from genre_tf.errors import FailureError
from genre_tf.funnel.index import Catalogue
from genre_tf.serving import Client
from genre_tf.serving.client.calls import join_ids
from genre_tf.serving.client.channels import open_channel
from genre_tf.serving.operations.server_process import ServerProcess, server_process

UNIT = "requests per second"
LONE = "lone request's median"
SESSION = "bare session"
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # shares of the saturating rate
_TURN = 20  # lone requests of one side in a row
_TOLERANCE = 1e-3  # of scores: KerasHub's layers add in another order than ours


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    served: ServedSizes
    clicks: int = 50
    candidates: int = 100
    lone: int = 200  # requests for a median
    burst: int = 100  # requests for a throughput
    burst_naive: int = 32
    at_once: int = 16
    long_run: int = 24_000  # requests at half load, while memory is watched
    search: SearchOptions = field(default_factory=SearchOptions)
    writes: int = 20  # generated texts for a median; a run at one rate has twice as many


_FULL = _Sizes(
    served=ServedSizes(articles=50_000, k=20, retrieve=200, generation=GenerationConfig(backbone="new"))
)
_QUICK = _Sizes(
    served=ServedSizes(
        articles=200,
        k=3,
        retrieve=20,
        generation=GenerationConfig(
            backbone="new", vocabulary_size=400, layers=1, heads=2, hidden=16, max_tokens=80
        ),
    ),
    clicks=4,
    candidates=5,
    lone=5,
    burst=12,
    burst_naive=12,
    at_once=4,
    long_run=60,
    search=SearchOptions(seconds=0.2, least_requests=6, at_once=4, steps=3),
    writes=3,
)


def bench(options: BenchOptions) -> list[Row]:
    """Measure throughput against a naive export, latency at several rates, memory, and the server's own cost.

    Raises:
        InputError: the backbone does not exist, or the picture cannot be drawn.
        FailureError: a request fails, or the naive export gives different answers.
    """
    if options.picture is not None:
        check_picture(options.picture)
    sizes = _QUICK if options.quick else _FULL
    with TemporaryDirectory(prefix="genre-bench-") as folder:
        models, scratch = Path(folder) / "models", Path(folder) / "scratch"
        scratch.mkdir()
        options.say(f"exporting models over {sizes.served.articles:,} articles")
        catalogue = write_models(models, sizes.served, options.news_backbone, scratch)
        gc.freeze()  # keeps garbage collection of these objects out of the measurements
        with server_process(models, ["--embedded"]) as server:
            return _measured(server, models, catalogue, sizes, options)


def _measured(
    server: ServerProcess, models: Path, catalogue: Catalogue, sizes: _Sizes, options: BenchOptions
) -> list[Row]:
    readers = Readers.of(catalogue, sizes.clicks, sizes.candidates)
    require_same_answers(server.address, readers)
    rows = [_own_cost(server, models, readers, sizes, options)]
    beside = {"recommend": readers.naive_recommend(), "score": readers.naive_score()}
    asked = {"recommend": readers.recommend(), "score": readers.score()}
    for name, naive in beside.items():
        rates = [
            _burst(server, *side, sizes.at_once)
            for side in ((asked[name], sizes.burst), (naive, sizes.burst_naive))
        ]
        rows += compare(f"{name}, throughput", UNIT, rates[0], {"naive": rates[1]}, options)
    curves = []
    for name, requests in {**asked, "generate": readers.generate()}.items():
        curves.append(_curve(name, server, requests, sizes, options))
        rows += [
            _rate_row(curves[-1], run, share) for run, share in zip(curves[-1].runs, SHARES, strict=True)
        ]
    rows.append(_long_run(curves[0], server, asked["recommend"], sizes, options))
    if options.picture is not None:
        draw_latency(curves, options.picture)
    return rows


def _own_cost(
    server: ServerProcess, models: Path, readers: Readers, sizes: _Sizes, options: BenchOptions
) -> Row:
    """Latency of a lone `recommend` request: through the server, and in a bare session."""
    signature = ExportedSignature(models / RECOMMENDER / "1", "recommend")
    inputs = [np.array([join_ids(history).encode()], object) for history in readers.histories]
    requests = readers.recommend()

    def through_session(number: int) -> object:
        return signature(history=inputs[number % len(inputs)])

    with open_channel(server.address) as channel:
        call = channel.unary_unary(METHOD)

        def through_server(number: int) -> object:
            return call(requests[number % len(requests)])

        # Short turns, so that slow moments of the machine, which last seconds, affect both sides.
        medians_in_turns_ms((through_server, through_session), sizes.lone, _TURN)
        rounds = []
        for number in range(options.rounds):
            rounds.append(medians_in_turns_ms((through_server, through_session), sizes.lone, _TURN))
            options.say(
                f"recommend, lone, round {number + 1} of {options.rounds}: "
                f"server {rounds[-1][0]:.4g}, {SESSION} {rounds[-1][1]:.4g} ms"
            )
    signature.close()
    ours, bare = (statistics.median(side) for side in zip(*rounds, strict=True))
    note = f"the server's own cost is {ours - bare:.3g} ms"
    return Row("recommend, lone", ours, bare, SESSION, bare / ours, "ms", options.rounds, note)


def _burst(server: ServerProcess, requests: list[bytes], count: int, at_once: int) -> Rate:
    return lambda: _answered(closed_loop(server.address, requests, count, at_once=at_once)).throughput


def _curve(
    name: str, server: ServerProcess, requests: list[bytes], sizes: _Sizes, options: BenchOptions
) -> Curve:
    address, writes = server.address, name == "generate"
    # Warm up: a batch shape that is new to a graph takes up to a second.
    closed_loop(address, requests, 4 * sizes.at_once, at_once=sizes.at_once)
    lone = _answered(closed_loop(address, requests, sizes.writes if writes else sizes.lone)).percentile_ms(50)
    found = find_saturation(
        address, requests, lone, sizes.search, lambda line: options.say(f"{name}, {line}")
    )
    runs = []
    for share in SHARES:
        rate = share * found.rate
        least = 2 * sizes.writes if writes else sizes.lone
        count = max(least, round(2 * sizes.search.seconds * rate))
        runs.append(open_loop(address, requests, rate, count, timeout_s=120.0, seed=round(100 * share)))
        options.say(f"{name} at {share:.0%} of {found.rate:.4g}/s: {_described(runs[-1])}")
    return Curve(name, lone, found.rate, runs)


def _rate_row(curve: Curve, run: LoadResult, share: float) -> Row:
    p99 = run.percentile_ms(99)
    note = f"{_described(run)}; saturates at {curve.saturation:.4g}/s"
    return Row(
        f"{curve.name}, p99 at {share:.0%} load", p99, curve.lone_ms, LONE, curve.lone_ms / p99, "ms", 1, note
    )


def _long_run(
    curve: Curve, server: ServerProcess, requests: list[bytes], sizes: _Sizes, options: BenchOptions
) -> Row:
    rate = curve.saturation / 2
    options.say(f"{sizes.long_run:,} requests at {rate:.4g}/s")
    every_s = min(0.5, sizes.long_run / rate / 40)
    with MemoryWatch(server.pid, every_s) as watch:
        run = open_loop(server.address, requests, rate, sizes.long_run, seed=1)
    slope = watch.slope()
    growth = 1e3 * slope.kb_a_second / rate
    note = (
        f"{run.failed} of {run.sent:,} failed{f' {run.errors}' if run.failed else ''}, p99 "
        f"{run.percentile_ms(99):.3g} ms; in the second half memory grew {growth:.3g} kB per 1000 requests "
        f"(+/- {1e3 * slope.error_kb / rate:.2g})"
    )
    case = "recommend, memory of the long run"
    ratio = slope.first_mb / slope.last_mb
    return Row(case, slope.last_mb, slope.first_mb, "before", ratio, "MB", 1, note)


def _described(run: LoadResult) -> str:
    latencies = "/".join(f"{run.percentile_ms(share):.3g}" for share in (50, 95, 99))
    return (
        f"{run.rate:.4g}/s asked, {run.throughput:.4g}/s answered, p50/p95/p99 {latencies} ms, "
        f"{run.failed} of {run.sent} failed, sent {run.late_ms:.2g} ms late"
    )


def _answered(result: LoadResult) -> LoadResult:
    if result.failed:
        raise FailureError(f"{result.failed} of {result.sent} requests failed: {result.errors}")
    return result


def require_same_answers(address: str, readers: Readers) -> None:
    """Raise FailureError if ours and the naive export recommend or score differently."""
    few = slice(4)
    with Client(address, 120.0) as ours, Client(address, 120.0, recommender=NAIVE) as naive:
        recommended = [
            [[one.score for one in row] for row in found]
            for found in (ours.recommend(readers.histories[few]), naive.recommend_text(readers.titles[few]))
        ]
        scored = [
            [[one.click_probability for one in row] for row in found]
            for found in (
                ours.score(readers.histories[few], readers.candidates[few]),
                naive.score_text(readers.titles[few], readers.candidate_titles[few]),
            )
        ]
    for what, (first, second) in (("recommend", recommended), ("score", scored)):
        if not np.allclose(first, second, rtol=0, atol=_TOLERANCE):
            raise FailureError(f"{what}: ours and naive answer differently, so the speeds cannot be compared")
