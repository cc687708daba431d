"""Spans for OpenTelemetry: one for each request, and below it one for each call of the model server.

Ids are those of the W3C trace context, which the app passes on anyway; spans are made when they have ended.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any

from genre_tf.errors import InputError

_NONE = "0" * 16
_SEND_S = 2  # at the end, too: a collector that does not answer loses what is left


def next_step(trace: str) -> str:
    """The traceparent of a step below this one."""
    return f"{trace[:36]}{secrets.token_hex(8)}{trace[52:]}"


class Spans:
    """Sends spans to a collector, in batches, by a thread of its own; one that does not answer slows nothing.

    Args:
        url: of a collector, for OTLP over HTTP, such as http://localhost:4318/v1/traces.

    Raises:
        InputError: OpenTelemetry is not installed, or this is no URL.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError("--otlp must be a URL such as http://localhost:4318/v1/traces")
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import ReadableSpan
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise InputError(f"{error.name} is not installed: pip install 'genre-tf[otel]'") from None
        self._api, self._span = trace, ReadableSpan
        self._resource = Resource.create({"service.name": "genre_app"})
        self._batches = BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=_SEND_S))

    def add(
        self,
        name: str,
        trace: str,
        parent: str | None,
        seconds: float,
        attributes: Mapping[str, str | int],
        *,
        ours: bool,
        failed: bool,
    ) -> None:
        """Add a span that has just ended.

        Args:
            name: what was done; never with readers' ids or texts in it.
            trace: its traceparent.
            parent: that of the step above; None: the trace begins here.
            seconds: how long it took.
            attributes: OpenTelemetry's names and values.
            ours: whether the app answered, or asked the model server.
            failed: whether it failed by no fault of who asked.
        """
        api, ended = self._api, time.time_ns()
        kind = api.SpanKind.SERVER if ours else api.SpanKind.CLIENT
        status = api.StatusCode.ERROR if failed else api.StatusCode.UNSET
        self._batches.on_end(
            self._span(
                name,
                context=self._context(trace),
                parent=None if parent is None else self._context(parent),
                resource=self._resource,
                attributes=dict(attributes),
                kind=kind,
                status=api.Status(status),
                start_time=ended - round(seconds * 1e9),
                end_time=ended,
            )
        )

    def close(self) -> None:
        """Send what is left."""
        self._batches.shutdown()

    def _context(self, trace: str) -> Any:
        _, number, span, _ = trace.split("-")
        flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        return self._api.SpanContext(int(number, 16), int(span, 16), is_remote=False, trace_flags=flags)


def parent_of(trace: str, header: str | None) -> str | None:
    """The client's traceparent if this trace goes on with it, else None."""
    client = header or ""
    same = len(client) == len(trace) and client[:36] == trace[:36] and client[36:52] != _NONE
    return client if same else None
