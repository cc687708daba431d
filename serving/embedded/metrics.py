"""The metrics of the server, with TensorFlow Serving's names, for Prometheus."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Histogram

from genre_tf.serving.embedded.errors import ServingError

_MOST_MODELS = 1000  # requests may name any model: without a limit the page could grow without end

prometheus_client.disable_created_metrics()  # TensorFlow Serving has no series of creation times


class ServerMetrics:
    """All metrics of one server. Times are in microseconds, as in TensorFlow Serving.

    Its counters have no `_total` in their names, which `prometheus_client.Counter` would add, so they are
    kept as gauges; `page` names their type.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        times, sizes = _limits(10, 1.8, 33), _limits(1, 2, 14)  # times of up to 20 minutes

        def counter(name: str, *labels: str) -> Gauge:
            return Gauge(f":tensorflow:{name}", "", labels, registry=self.registry)

        def histogram(name: str, limits: list[float], *labels: str) -> Histogram:
            return Histogram(f":tensorflow:{name}", "", labels, registry=self.registry, buckets=limits)

        self.load_attempts = counter("cc:saved_model:load_attempt_count", "model_path", "status")
        self.load_latency = counter("cc:saved_model:load_latency", "model_path")
        self.warmup_latency = histogram("serving:model_warmup_latency", times, "model_path", "status")
        self.warmup_records = counter("serving:model_warmup_records_read", "model_path", "status")
        self.requests = counter("serving:request_count", "model_name", "status")
        self.request_latency = histogram("serving:request_latency", times, "model_name", "API", "entrypoint")
        self.runtime_latency = histogram("serving:runtime_latency", times, "model_name", "API", "runtime")
        batching, waits = "serving:batching_session", _limits(100, 1.2, 52)
        self.queuing_latency = histogram(f"{batching}:queuing_latency", waits, "thread_pool_name")
        self.batches = counter(f"{batching}:wrapped_run_count")
        self.input_rows = histogram(f"{batching}:input_batch_size", sizes)
        self.batch_rows = histogram(f"{batching}:processed_batch_size", sizes)
        self.padding_rows = histogram(f"{batching}:padding_size", sizes, "execution_batch_size")
        self._models: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def counted(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count a request by the error that ends it, if there is one, otherwise with its time.

        `api` is such as `Predict`, over REST `predict`, and empty for what is read with GET.
        """
        started, name = time.perf_counter(), self._known(model)
        try:
            yield
        except ServingError as error:
            self.requests.labels(name, error.code.name).inc()
            raise
        elapsed_us = (time.perf_counter() - started) * 1e6
        self.request_latency.labels(name, api, entrypoint).observe(elapsed_us)
        self.requests.labels(name, "OK").inc()

    def page(self) -> bytes:
        """The page that Prometheus reads."""
        return prometheus_client.generate_latest(self.registry).replace(b" gauge\n", b" counter\n")

    def _known(self, model: str) -> str:
        with self._lock:
            if model not in self._models and len(self._models) >= _MOST_MODELS:
                return "(other)"
            self._models.add(model)
            return model


def _limits(first: float, growth: float, count: int) -> list[float]:
    return [float(f"{first * growth**power:.6g}") for power in range(count)]
