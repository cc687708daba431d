"""Spans for an OpenTelemetry collector: one a request, and in it one a model server call."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from genre_tf.errors import InputError
from genre_tf.serving.app.observing import trace_of

_PATH = "/v1/traces"  # OTLP's usual one
_SEND_S = 5.0  # for one batch with all its repetitions; the app's end waits for the last batch


@dataclass(slots=True)
class Step:
    """A step of a trace: the traceparent to pass on, and at its end the attributes of its span."""

    trace: str
    attributes: dict[str, str | int] = field(default_factory=dict)
    failed: bool = False


class Tracing:
    """Passes traces on, and makes no spans."""

    @contextmanager
    def request(self, header: str | None) -> Iterator[Step]:
        """A request to the app with this `traceparent` header."""
        yield Step(trace_of(header))

    @contextmanager
    def call(self, trace: str, signature: str) -> Iterator[Step]:
        """A model server call inside the step with this traceparent."""
        yield Step(trace)

    def close(self) -> None:
        """Send what waits."""


class SpanTracing(Tracing):
    """Makes spans of OpenTelemetry's SDK and sends them in the background.

    If the collector does not answer, spans are dropped and requests are answered as before. As the SDK
    does by default, requests whose caller says in `traceparent` that it does not sample make no spans.

    Args:
        endpoint: URL of an OTLP/HTTP collector; without a path it gets OTLP's `/v1/traces`.

    Raises:
        InputError: the extra `otel` is not installed, or the endpoint is not a URL.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise InputError(f"--otlp: {error.name} is not installed: pip install 'genre-tf[otel]'") from None
        resource = Resource.create({"service.name": "genre-app"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(_url(endpoint), timeout=_SEND_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("genre_tf.serving.app")
        self._header, self._in_context = TraceContextTextMapPropagator(), set_span_in_context
        self._request, self._call, self._error = SpanKind.SERVER, SpanKind.CLIENT, StatusCode.ERROR

    @contextmanager
    def request(self, header: str | None) -> Iterator[Step]:
        """A request to the app with this `traceparent` header."""
        with self._span("request", header or "", self._request) as (span, step):
            yield step
            span.update_name(str(step.attributes.get("route", "request")))

    @contextmanager
    def call(self, trace: str, signature: str) -> Iterator[Step]:
        """A model server call inside the step with this traceparent."""
        with self._span(signature, trace, self._call) as (_, step):
            step.attributes["signature"] = signature
            yield step

    @contextmanager
    def _span(self, name: str, parent: str, kind: Any) -> Iterator[tuple[Any, Step]]:
        context = self._header.extract({"traceparent": parent})
        span = self._tracer.start_span(name, context, kind)
        carrier: dict[str, str] = {}
        self._header.inject(carrier, self._in_context(span))
        step = Step(carrier["traceparent"])
        try:
            yield span, step
        except BaseException:
            step.failed = True  # an error's words may be foreign text: they are not recorded
            raise
        finally:
            span.set_attributes(step.attributes)
            if step.failed:
                span.set_status(self._error)
            span.end()

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def _url(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 0) >= 0
    except ValueError:
        known = None
    if not known:
        raise InputError(f"--otlp must be a URL such as http://127.0.0.1:4318; got {endpoint[:200]!r}")
    return endpoint if parts.path.strip("/") else parts._replace(path=_PATH).geturl()
