"""The client over REST: the answers and the errors of gRPC."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from genre_tf.errors import FailureError, InputError
from genre_tf.serving import Client
from genre_tf.serving.client import rest

GOOD = (200, b'{"outputs": [[1.0, 2.0]]}')


class Scripted(ThreadingHTTPServer):
    """Gives prepared answers, the last one again and again; keeps the requests."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, json.loads(body)))
        status, answer = (
            self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        )
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def scripted(*answers: tuple[int, bytes]) -> Iterator[tuple[Scripted, str]]:
    with Scripted(*answers) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def refused(status: int, error: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": error}).encode()


@pytest.fixture(scope="module")
def both(contract_server: Any) -> Iterator[tuple[Client, Client]]:
    with (
        Client(contract_server.grpc_address) as by_grpc,
        Client(contract_server.rest_address) as by_rest,
    ):
        yield by_grpc, by_rest


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.recommend([[], ["N1", "N9", "N3"]]),
        lambda client: client.recommend_text([["Storm hits\nthe coast", 'Bank "raises" rates'], []]),
        lambda client: client.score([["N1"], []], [["N4", "N9", "N4"], ["N2"]]),
        lambda client: client.score([["N1"]], [[]]),
        lambda client: client.score_counters([["N1"]], [["N3", "N4"]], [[1, 3.0]], [[1, 3]], [[0.5, 1e-3]]),
        lambda client: client.score_text([["a"], []], [["four", "sixsix"], ["新闻"]]),
        lambda client: client.generate([["a"], []], ["", "Né 🌪\ntoday"], ["title", "body"], [-(2**63), 9]),
        lambda client: client.answer(["What?", "Who?"], [["a", "b"], []], [7, 2**63 - 1]),
    ],
)
def test_both_ways_give_the_same_answers(call: Any, both: tuple[Client, Client]) -> None:
    by_grpc, by_rest = map(call, both)
    assert by_grpc and by_rest == by_grpc


def test_vectors_are_the_same_to_the_bit(both: tuple[Client, Client]) -> None:
    by_grpc, by_rest = (client.embed_news(["abc", ""]) for client in both)
    assert by_rest.dtype == by_grpc.dtype == np.float32
    np.testing.assert_array_equal(by_rest, by_grpc)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.embed_user([["N1"]]),
        lambda client: client.score([["N1"]], [["N2"], ["N3"]]),
        lambda client: client.recommend([["N1 N2"]]),
    ],
)
def test_what_one_way_refuses_the_other_refuses_too(call: Any, both: tuple[Client, Client]) -> None:
    for client in both:
        with pytest.raises(InputError):
            call(client)


def test_an_unknown_model_is_wrong_input(contract_server: Any) -> None:
    with (
        Client(contract_server.rest_address, recommender="another one") as client,
        pytest.raises(InputError, match=r"refused the request: .*another one"),
    ):
        client.recommend([[]])


def test_a_path_goes_before_that_of_the_api() -> None:
    with scripted(GOOD) as (server, url), Client(f"{url}/news/") as client:
        np.testing.assert_array_equal(client.embed_news(["a"]), [[1, 2]])
    document = {"signature_name": "embed_news", "inputs": {"text": ["a"]}}
    assert server.asked == [("/news/v1/models/genre_recommender:predict", document)]


@pytest.mark.parametrize(
    ("answer", "error", "words", "asked"),
    [
        (refused(503, "batch scheduling queue is full"), FailureError, "is overloaded", 4),
        (refused(429, "Server Threadpool Exhausted"), FailureError, "has no free thread", 4),
        (refused(400, "because"), InputError, "refused the request: because", 1),
        (refused(413, "because"), FailureError, "request is too large .*: ask for less", 1),
        (refused(500, "because"), FailureError, "failed .*: because", 1),
        (refused(504, "because"), FailureError, "no answer from .* within 10 s", 1),
        ((404, b"<html>"), FailureError, r"not answer as TensorFlow Serving does \(HTTP status 404\)", 1),
        ((307, b""), FailureError, r"not answer as TensorFlow Serving does \(HTTP status 307\)", 1),
        ((200, b'{"outp'), FailureError, r"not answer as TensorFlow Serving does \(HTTP status 200\)", 1),
        ((200, b"[" * 100_000), FailureError, "not answer as TensorFlow Serving does", 1),
        ((200, b'{"outputs": [[1], [2, 3]]}'), FailureError, "not what genre_tf exports", 1),
        ((200, b'{"outputs": {"a": 1}}'), FailureError, "not what genre_tf exports", 1),
    ],
)
def test_errors_are_those_of_grpc_and_only_what_may_pass_is_asked_again(
    answer: Any, error: Any, words: str, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_WAITS_S", (0.01, 0.01, 0.01))
    with scripted(answer) as (server, url), Client(url) as client, pytest.raises(error, match=words):
        client.embed_news(["a"])
    assert len(server.asked) == asked


def test_a_server_that_is_busy_for_a_moment_is_asked_again() -> None:
    with scripted(refused(503, "busy"), GOOD) as (server, url), Client(url) as client:
        assert client.embed_news(["a"]).shape == (1, 2)
    assert len(server.asked) == 2


def test_the_size_of_an_answer_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "MAX_ANSWER_BYTES", 1 << 20)
    answer = (200, b" " * (3 << 20))
    with (
        scripted(answer) as (_, url),
        Client(url) as client,
        pytest.raises(FailureError, match="is over 1 MiB: ask for less"),
    ):
        client.embed_news(["a"])


def test_no_server_is_reported_at_once_with_what_to_do() -> None:
    started = time.monotonic()
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(
            FailureError, match=r"no server answers at 127.0.0.1:1 \(Connection refused\): .*genre serve"
        ),
    ):
        client.recommend([[]])
    assert time.monotonic() - started < 0.5


def test_the_deadline_holds_for_the_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(50):
            handler.wfile.write(b" ")
            time.sleep(0.02)

    monkeypatch.setattr(_Handler, "do_POST", drip)
    monkeypatch.setattr(_Handler, "handle", _quietly(_Handler.handle))
    started = time.monotonic()
    with (
        scripted(GOOD) as (_, url),
        Client(url, timeout_s=0.2) as client,
        pytest.raises(FailureError, match=r"no answer from .* within 0.2 s"),
    ):
        client.embed_news(["a"])
    assert time.monotonic() - started < 0.9


def _quietly(handle: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(handler: Any) -> None:
        with suppress(ConnectionError):  # the client has hung up
            handle(handler)

    return run


def test_a_port_for_the_other_way_is_named(contract_server: Any) -> None:
    with (
        Client(f"http://{contract_server.grpc_address}", 5) as client,
        pytest.raises(FailureError, match=r"is not a REST port .*leave out --rest"),
    ):
        client.recommend([[]])
    with (
        Client(contract_server.rest_address.removeprefix("http://"), 5) as client,
        pytest.raises(FailureError, match="is a REST port, not a gRPC port: add --rest"),
    ):
        client.recommend([[]])


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_server_on_this_machine_is_never_asked_through_a_proxy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with scripted(GOOD) as (_, url), Client(url.replace("127.0.0.1", "localhost")) as client:
        assert client.embed_news(["a"]).shape == (1, 2)


def test_an_unreachable_server_elsewhere_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with (
        Client("http://news.invalid:8501") as client,
        pytest.raises(FailureError, match=r"at news.invalid:8501 through the proxy in http_proxy"),
    ):
        client.recommend([[]])


@pytest.mark.parametrize(
    "url", ["http://", "http://:8501", "http://host:port", "http://host:99999", "http://h/?a=1", "http://a b"]
)
def test_an_address_is_a_url_of_a_server(url: str) -> None:
    with pytest.raises(
        InputError, match=r"is not that of a REST port: give one such as http://127.0.0.1:8501"
    ):
        Client(url)
