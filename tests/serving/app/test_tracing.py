"""Spans, as an OpenTelemetry collector receives them."""

import http.server
import io
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from genre_tf.errors import InputError
from genre_tf.serving.app.observing import JsonLines
from genre_tf.serving.app.tracing import SpanTracing, Tracing

from .conftest import running

TRACE, CALLER = "ab" * 16, "cd" * 8
READER, QUESTION = "reader-nobody-knows", "Where-is-the-secret-harbour"


class Collector(http.server.ThreadingHTTPServer):
    """An OTLP/HTTP collector that remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, bytes]] = []
        self.answer = (200, b"")
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        assert {path for path, _ in self.received} == {"/v1/traces"}
        return [
            span
            for _, body in self.received
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, body))
        status, answer = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    pytest.importorskip("opentelemetry.exporter.otlp", reason="the extra genre-tf[otel] is not installed")
    found = Collector()
    yield found
    found.shutdown()
    found.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_a_request_is_a_span_and_each_model_server_call_one_inside_it(models, server, tmp_path, collector):
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", otlp=collector.url) as app:
        app.click(READER, "N1")
        header = f"00-{TRACE}-{CALLER}-01"
        _, _, headers = app.ask("GET", f"/v1/readers/{READER}/feed?k=3", traceparent=header)
        app.post("/v1/ask", {"reader": READER, "question": QUESTION})
        app.ask("GET", "/no-such-page-of-a-stranger")
    spans = {span.name: span for span in collector.spans()}
    assert sorted(spans) == ["(none)", "answer", "ask", "events", "explain", "feed", "recommend_live"]
    feed, call = spans["feed"], spans["recommend_live"]
    assert feed.trace_id == call.trace_id == spans["explain"].trace_id == bytes.fromhex(TRACE)
    assert feed.parent_span_id == bytes.fromhex(CALLER)
    assert call.parent_span_id == spans["explain"].parent_span_id == feed.span_id
    assert headers["traceresponse"] == f"00-{TRACE}-{feed.span_id.hex()}-01"
    assert attributes(feed) == {"route": "feed", "status": 200}
    assert attributes(call) == {"signature": "recommend_live", "version": "genre_recommender/1"}
    assert spans["ask"].trace_id == spans["answer"].trace_id != feed.trace_id
    assert feed.start_time_unix_nano <= call.start_time_unix_nano < call.end_time_unix_nano
    # The model server got the span of the call as its parent.
    told = next(told for signature, _, _, told in server.asked if signature == "recommend_live")
    assert told["traceparent"] == f"00-{TRACE}-{call.span_id.hex()}-01"
    sent = b"".join(body for _, body in collector.received)
    for private in (READER, QUESTION, "stranger", "harbour"):
        assert private.encode() not in sent


def test_a_failed_call_and_a_failed_request_are_marked_without_foreign_words(
    models, server, tmp_path, collector
):
    server.failing |= {"recommend_live", "answer"}
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", otlp=collector.url) as app:
        assert app.get("/v1/readers/r/feed?k=3")["version"] == "popular"
        assert app.post("/v1/ask", {"reader": "r", "question": QUESTION})[0] == 503
    spans = {span.name: span for span in collector.spans()}
    failed = {name for name, span in spans.items() if span.status.code == 2}
    assert failed == {"recommend_live", "answer", "ask"}
    assert attributes(spans["answer"]) == {"signature": "answer"}
    assert all(not span.events and not span.status.message for span in spans.values())


def test_a_caller_that_does_not_sample_makes_no_span_but_its_trace_goes_on(
    models, server, tmp_path, collector
):
    with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", otlp=collector.url) as app:
        app.get("/v1/readers/r/feed", traceparent=f"00-{TRACE}-{CALLER}-00")
    assert collector.received == []
    told = server.asked[-1][3]["traceparent"].split("-")
    assert (told[1], told[3]) == (TRACE, "00")


def test_a_collector_that_is_gone_or_refuses_holds_up_nothing(models, server, tmp_path, collector):
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(handler)
    collector.answer = (400, b"\x1b[31m\xe2\x80\xae" + b"refused" * 10_000)
    try:
        for url in ("http://127.0.0.1:1/v1/traces", collector.url):
            started = time.monotonic()
            with running(models, server.address, f"sqlite:///{tmp_path / 'a.db'}", otlp=url) as app:
                assert app.get("/v1/readers/r/feed?k=3")["version"] == "genre_recommender/1"
            assert time.monotonic() - started < 25
    finally:
        logger.removeHandler(handler)
    told = lines.getvalue()
    assert told.isascii() and "\x1b" not in told and max(map(len, told.splitlines())) < 20_000
    assert all(json.loads(line)["level"] for line in told.splitlines())


def test_without_a_collector_a_step_passes_the_trace_on():
    with Tracing().request(f"00-{TRACE}-{CALLER}-01") as step:
        assert step.trace.split("-")[1] == TRACE
        with Tracing().call(step.trace, "score") as inner:
            assert inner.trace == step.trace


def test_without_the_extra_the_option_says_what_to_install(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("opentelemetry.exporter"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InputError, match=r"pip install 'genre-tf\[otel\]'"):
        SpanTracing("http://127.0.0.1:4318")


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4318", "grpc://host:4317", "http://", "http://h:x", "ht\x1b"]
)
def test_a_wrong_endpoint_is_refused(collector, endpoint):
    with pytest.raises(InputError, match="--otlp must be a URL") as refused:
        SpanTracing(endpoint)
    assert "\x1b" not in str(refused.value)
