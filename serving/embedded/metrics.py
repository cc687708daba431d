"""The metrics of the server, with TensorFlow Serving's names, for Prometheus."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge, Histogram

from genre_tf.serving.embedded.errors import ServingError

_MOST_MODELS = 1000  # requests may name any model: without a limit the page could grow without end
_SERVING, _SAVED_MODEL = ":tensorflow:serving:", ":tensorflow:cc:saved_model:"
_BATCHING = f"{_SERVING}batching_session:"

prometheus_client.disable_created_metrics()  # TensorFlow Serving has no series of creation times


class ServerMetrics:
    """All metrics of one server. Times are in microseconds, as in TensorFlow Serving.

    Its counters have no `_total` in their names, which `prometheus_client.Counter` would add, so they are
    kept as gauges; `page` names their type.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Gauge, documentation="", registry=self.registry)
        histogram = partial(Histogram, documentation="", registry=self.registry)
        latency = partial(histogram, buckets=_limits(10, 1.8, 33))  # up to 20 minutes
        sizes = partial(histogram, buckets=_limits(1, 2, 14))
        self.load_attempts = counter(f"{_SAVED_MODEL}load_attempt_count", labelnames=("model_path", "status"))
        self.load_latency = counter(f"{_SAVED_MODEL}load_latency", labelnames=("model_path",))
        self.warmup_latency = latency(f"{_SERVING}model_warmup_latency", labelnames=("model_path", "status"))
        self.warmup_records = counter(
            f"{_SERVING}model_warmup_records_read", labelnames=("model_path", "status")
        )
        self.requests = counter(f"{_SERVING}request_count", labelnames=("model_name", "status"))
        self.request_latency = latency(
            f"{_SERVING}request_latency", labelnames=("model_name", "API", "entrypoint")
        )
        self.runtime_latency = latency(
            f"{_SERVING}runtime_latency", labelnames=("model_name", "API", "runtime")
        )
        self.queuing_latency = histogram(
            f"{_BATCHING}queuing_latency", labelnames=("thread_pool_name",), buckets=_limits(100, 1.2, 52)
        )
        self.batches = counter(f"{_BATCHING}wrapped_run_count")
        self.input_rows = sizes(f"{_BATCHING}input_batch_size")
        self.batch_rows = sizes(f"{_BATCHING}processed_batch_size")
        self.padding_rows = sizes(f"{_BATCHING}padding_size", labelnames=("execution_batch_size",))
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
