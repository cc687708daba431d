"""How comparisons are measured: all sides in one run, taking turns; medians of all rounds."""

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
"""One measurement: works for a while and returns units per second."""

_LEAST_SECONDS = 1.0  # minimum work per measurement, far above the noise of clock and scheduler
_QUICK_SECONDS = 0.01
_PACKAGES = ("tensorflow", "keras", "torch", "transformers", "ctranslate2", "faiss-cpu", "grpcio")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of a bench, from the command line.

    Attributes:
        rounds: measurements of each side.
        quick: minimal work, to see that everything runs; the numbers mean nothing.
        data: a MIND-format data set; None: a synthetic newsroom.
        news_backbone: the BERT that both sides load.
        say: called with each line of progress.
        picture: file for a plot of the measurements, for benches that draw one.
        run: a run folder, for benches that measure a trained model.
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
        peer_name: name of the peer.
        ratio: above 1: ours is better.
        unit: unit of `ours` and `peer`.
        rounds: measurements of each side.
        note: what else is needed to judge the numbers; may be empty.
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
        """Plain values for JSON; four significant digits, more than measurements can reproduce."""
        return {
            name: float(f"{value:.4g}") if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if value != ""
        }


def compare(
    case: str, unit: str, ours: Rate, peers: Mapping[str, Rate], options: BenchOptions, warm: bool = True
) -> list[Row]:
    """Measure all sides in turns, so that other load on the machine affects all of them.

    Args:
        case: what is done.
        unit: what the rates count, such as "titles per second"; more is better.
        ours: our side.
        peers: the other sides, by name.
        options: `rounds` and `say`.
        warm: run each side once before, unmeasured, so that graphs are built and memory is allocated.

    Returns:
        One row per peer.
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
    """A measurement that repeats work until enough time has passed.

    Args:
        work: what is timed; must wait for its own result.
        amount: units done by one call.
        options: with `quick`, about one call is measured.
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
    """Median time of a call of each side in milliseconds, measured in turns.

    Args:
        sides: functions to time; each call gets its number, from 0 to `times` - 1.
        times: calls of each side.
        turn: calls of one side in a row, before the next side takes its turn.
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
    """Number of processors that this process may use; every side gets as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, threads, versions, and the load of the machine.

    If `load_average` is far above `threads`, other processes used the processors. PyTorch suffers from that
    more than TensorFlow, because its threads wait for each other in every operation.
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
