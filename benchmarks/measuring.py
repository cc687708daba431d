"""How a comparison is measured: both sides in one run, taking turns, the median of all rounds."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Rate = Callable[[], float]
"""One measurement: works for a while and gives units per second."""

_LEAST_SECONDS = 1.0  # of work per measurement: far above what a clock or a scheduler can blur
_QUICK_SECONDS = 0.01
_PACKAGES = ("tensorflow", "keras", "torch", "transformers", "ctranslate2", "faiss-cpu", "grpcio")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What the command line asks of a bench.

    Attributes:
        rounds: measurements of each side.
        quick: as little work as shows that everything runs; its numbers mean nothing.
        data: a MIND-format data set; None writes the package's own newsroom.
        news_backbone: the BERT that both sides load.
        say: takes a line of progress.
        picture: file for a picture of what was measured, where a bench draws one.
        run: a run folder, where a bench measures what was trained.
    """

    rounds: int
    quick: bool
    data: Path | None
    news_backbone: str
    say: Callable[[str], None]
    picture: Path | None = None
    run: Path | None = None


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        case: what was done.
        ours: median, in `unit`.
        peer: median, in `unit`.
        peer_name: with whom.
        ratio: above 1 means that ours is better.
        unit: of `ours` and `peer`.
        rounds: measurements of each side.
        note: what else must be known to judge it, if anything.
    """

    case: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    unit: str
    rounds: int
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; four significant digits, which is more than a machine repeats."""
        return {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if value != ""
        }


def compare(
    case: str, unit: str, ours: Rate, peers: Mapping[str, Rate], options: BenchOptions, warm: bool = True
) -> list[Row]:
    """Measure all sides in turns, so that whatever else the machine does falls on all of them.

    Args:
        case: what is done.
        unit: what the rates count, such as "titles per second"; more is better.
        ours: our side.
        peers: the other sides, by name.
        options: `rounds` and `say`.
        warm: whether each side works once before, unmeasured; graphs are built and memory is found then.

    Returns:
        One row for each peer.
    """
    sides = {"ours": ours, **peers}
    if warm:
        for side in sides.values():
            side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            found[name].append(sides[name]())
        last = ", ".join(f"{name} {rates[-1]:.4g}" for name, rates in found.items())
        options.say(f"{case}, round {number + 1} of {options.rounds}: {last} {unit}")
    median = {name: statistics.median(rates) for name, rates in found.items()}
    return [
        Row(case, median["ours"], median[name], name, median["ours"] / median[name], unit, options.rounds)
        for name in peers
    ]


def rate_of(work: Callable[[], object], amount: float, options: BenchOptions) -> Rate:
    """A measurement that repeats some work until it took long enough.

    Args:
        work: what is timed; waits for its own result.
        amount: units that it does.
        options: `quick` measures hardly anything.
    """
    least = _QUICK_SECONDS if options.quick else _LEAST_SECONDS

    def measure() -> float:
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < least or not done:
            work()
            done += 1
        return done * amount / (time.perf_counter() - started)

    return measure


def medians_in_turns_ms(sides: Sequence[Callable[[int], object]], times: int, turn: int) -> list[float]:
    """The median time of each of several works that are given their numbers, in milliseconds.

    Args:
        sides: the works.
        times: how often each is done.
        turn: how often each is done in a row, before the next one's turn.
    """
    taken: list[list[float]] = [[] for _ in sides]
    for first in range(0, times, turn):
        for work, times_s in zip(sides, taken, strict=True):
            for number in range(first, min(first + turn, times)):
                started = time.perf_counter()
                work(number)
                times_s.append(time.perf_counter() - started)
    return [statistics.median(times_s) * 1e3 for times_s in taken]


def threads() -> int:
    """Processors that this process may use; both sides get as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, threads, versions, and who else was busy on it.

    Where `load_average` is far above `threads`, others took the processors, and PyTorch, whose threads wait
    for each other at every operation, suffers more from that than TensorFlow.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "threads": threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
