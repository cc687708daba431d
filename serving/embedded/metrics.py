"""The metrics of the server, and their Prometheus page, with TensorFlow Serving's names and format.

Follows prometheus_exporter.cc of TensorFlow Serving and monitoring/sampler.h of TensorFlow.
"""

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# Requests may name any model: without a limit the page could grow without end.
_MOST_CELLS = 1000
_OTHER = "(other)"


@dataclass(eq=False)
class Counter:
    """A count for each combination of label values.

    Args:
        name: name on the page.
        labels: names of the labels.
    """

    name: str
    labels: tuple[str, ...]
    _values: dict[tuple[str, ...], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *values: str, by: int = 1) -> None:
        """Add `by` to the count of these label values."""
        with self._lock:
            if values not in self._values and len(self._values) >= _MOST_CELLS:
                values = (_OTHER,) * len(values)
            self._values[values] = self._values.get(values, 0) + by

    def lines(self) -> Iterator[str]:
        """The lines of this metric on the page."""
        yield f"# TYPE {self.name} counter"
        with self._lock:
            found = sorted(self._values.items())
        for values, count in found:
            yield f"{self.name}{{{_labels(self.labels, values)}}} {count}"


@dataclass(slots=True)
class _Cell:
    counts: list[int]
    total: float = 0.0


@dataclass(eq=False)
class Histogram:
    """Counts of values in buckets with growing limits, for each combination of label values.

    Args:
        name: name on the page.
        labels: names of the labels.
        scale: the first limit.
        growth: ratio of each limit to the one before.
        limits: number of limits; one more bucket, without a limit, takes larger values.
    """

    name: str
    labels: tuple[str, ...]
    scale: float
    growth: float
    limits: int
    _cells: dict[tuple[str, ...], _Cell] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._bounds = [self.scale * self.growth**power for power in range(self.limits)]

    def add(self, value: float, *values: str) -> None:
        """Count a value for these label values."""
        place = bisect_right(self._bounds, value)
        with self._lock:
            if values not in self._cells:
                if len(self._cells) >= _MOST_CELLS:
                    values = (_OTHER,) * len(values)
                self._cells.setdefault(values, _Cell([0] * (self.limits + 1)))
            cell = self._cells[values]
            cell.counts[place] += 1
            cell.total += value

    def lines(self) -> Iterator[str]:
        """The lines of this metric on the page."""
        yield f"# TYPE {self.name} histogram"
        with self._lock:
            found = [(values, list(cell.counts), cell.total) for values, cell in sorted(self._cells.items())]
        texts = [f"{bound:.6g}" for bound in self._bounds] + ["+Inf"]
        for values, counts, total in found:
            labels = _labels(self.labels, values)
            before = f"{self.name}_bucket{{{labels}," if labels else f"{self.name}_bucket{{"
            sum_so_far = 0
            for text, count in zip(texts, counts, strict=True):
                sum_so_far += count
                yield f'{before}le="{text}"}} {sum_so_far}'
            yield f"{self.name}_sum{{{labels}}} {total:.15g}"
            yield f"{self.name}_count{{{labels}}} {sum_so_far}"


def _latency(name: str, *labels: str) -> Histogram:
    return Histogram(name, labels, scale=10, growth=1.8, limits=33)  # microseconds, up to 20 minutes


class ServerMetrics:
    """All metrics of one server. Times are in microseconds, as in TensorFlow Serving."""

    def __init__(self) -> None:
        serving, saved_model = ":tensorflow:serving:", ":tensorflow:cc:saved_model:"
        batching = f"{serving}batching_session:"
        self.load_attempts = Counter(f"{saved_model}load_attempt_count", ("model_path", "status"))
        self.load_latency = Counter(f"{saved_model}load_latency", ("model_path",))
        self.warmup_latency = _latency(f"{serving}model_warmup_latency", "model_path", "status")
        self.warmup_records = Counter(f"{serving}model_warmup_records_read", ("model_path", "status"))
        self.requests = Counter(f"{serving}request_count", ("model_name", "status"))
        self.request_latency = _latency(f"{serving}request_latency", "model_name", "API", "entrypoint")
        self.runtime_latency = _latency(f"{serving}runtime_latency", "model_name", "API", "runtime")
        self.queuing_latency = Histogram(
            f"{batching}queuing_latency", ("thread_pool_name",), scale=100, growth=1.2, limits=52
        )
        self.batches = Counter(f"{batching}wrapped_run_count", ())
        self.input_rows = Histogram(f"{batching}input_batch_size", (), scale=1, growth=2, limits=14)
        self.batch_rows = Histogram(f"{batching}processed_batch_size", (), scale=1, growth=2, limits=14)
        self.padding_rows = Histogram(
            f"{batching}padding_size", ("execution_batch_size",), scale=1, growth=2, limits=14
        )

    def page(self) -> bytes:
        """The page that Prometheus reads."""
        metrics = sorted(vars(self).values(), key=lambda metric: metric.name)
        return ("\n".join(line for metric in metrics for line in metric.lines()) + "\n").encode(
            "utf-8", "replace"
        )


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _escaped(value: str) -> str:
    # TensorFlow Serving does not escape a line feed, which breaks the page; Prometheus' format requires it.
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
