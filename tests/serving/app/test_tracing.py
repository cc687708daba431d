"""Traces as an OpenTelemetry collector receives them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from genre_tf.errors import InputError
from genre_tf.serving.app.tracing import Spans, next_step, parent_of

from .conftest import running

CLIENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


@pytest.fixture
def collector() -> Iterator[Any]:
    """Keeps the bodies that are sent to it."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.bodies = bodies
    server.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def received(collector: Any) -> list[Any]:
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    requests = [messages.ExportTraceServiceRequest.FromString(body) for body in collector.bodies]
    parts = [part for request in requests for part in request.resource_spans]
    assert all("genre_app" in str(part.resource) for part in parts)
    return [span for part in parts for scope in part.scope_spans for span in scope.spans]


def test_a_feed_is_a_span_of_its_client_and_each_call_of_the_model_server_one_of_the_feed(
    models: Any, server: Any, collector: Any, tmp_path: Any
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp", reason="the extra otel is not installed")
    database = f"sqlite:///{tmp_path / 'app.db'}"
    with running(models, server.address, database, otlp=collector.url) as app:
        app.click("secret-reader", "N3")
        app.get("/v1/readers/secret-reader/feed", traceparent=CLIENT)
        server.failing = {"recommend_live"}
        app.get("/v1/readers/secret-reader/feed")
        app.ask("BREW", "/v1/readers/secret-reader/feed")
    spans = received(collector)

    by_name = {span.name: span for span in spans if span.trace_id.hex() == "ab" * 16}
    feed = by_name["GET feed"]
    assert feed.parent_span_id.hex() == "cd" * 8 and feed.kind == feed.SPAN_KIND_SERVER
    assert "200" in str(feed.attributes)
    calls = {name: span for name, span in by_name.items() if span is not feed}
    assert set(calls) == {"genre_recommender recommend_live", "genre_recommender explain"}
    for span in calls.values():
        assert span.parent_span_id == feed.span_id and span.kind == span.SPAN_KIND_CLIENT
        assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
        assert "genre_recommender/1" in str(span.attributes)
    told = [metadata["traceparent"] for _, _, _, metadata in server.asked]
    assert calls["genre_recommender explain"].span_id.hex() in " ".join(told)
    failed = [span.name for span in spans if span.status.code == span.status.STATUS_CODE_ERROR]
    assert set(failed) == {"genre_recommender recommend_live"}, "the feed was answered without it"
    assert "secret-reader" not in str(spans) and "BREW" not in str(spans)


def test_a_collector_that_does_not_answer_slows_no_feed(models: Any, server: Any, tmp_path: Any) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp", reason="the extra otel is not installed")
    database = f"sqlite:///{tmp_path / 'app.db'}"
    with running(models, server.address, database, otlp="http://127.0.0.1:9/v1/traces") as app:
        assert app.get("/v1/readers/r/feed")["items"]


def test_what_is_missing_or_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--otlp must be a URL such as"):
        Spans("localhost:4318")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(InputError, match=r"pip install 'genre-tf\[otel\]'"):
        Spans("http://localhost:4318/v1/traces")


def test_a_step_keeps_the_trace_and_a_client_is_its_parent_only_within_it() -> None:
    step = next_step(CLIENT)
    assert (step[:36], step[52:]) == (CLIENT[:36], CLIENT[52:]) and step != CLIENT
    assert parent_of(step, CLIENT) == CLIENT
    for other in (None, "", "x", f"00-{'ef' * 16}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'00' * 8}-01"):
        assert parent_of(step, other) is None
