"""The HTTP side of REST: keep-alive, compressed bodies, and what one client may take; others still answer."""

import gzip
import http.client
import json
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from genre_tf.errors import InputError

PATH = "/v1/models/toy:predict"
GOOD = b'{"instances": [1]}'


@pytest.fixture
def connection(toy_server: Any) -> Iterator[http.client.HTTPConnection]:
    opened = http.client.HTTPConnection(urlsplit(toy_server.rest_address).netloc, timeout=30)
    yield opened
    opened.close()


def ask(connection: http.client.HTTPConnection, body: Any, **headers: str) -> tuple[int, Any]:
    lines = {name.replace("_", "-"): text for name, text in headers.items()}
    connection.request("POST", PATH, body, lines, encode_chunked="Transfer-Encoding" in lines)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_one_connection_carries_many_requests(connection: http.client.HTTPConnection) -> None:
    for number in range(3):
        asked = ask(connection, json.dumps({"instances": [number]}))
        assert asked == (200, {"predictions": [number / 2 + 3]})


def test_an_answer_is_sent_at_once(connection: http.client.HTTPConnection) -> None:
    times_s = []
    for _ in range(30):
        begun = time.perf_counter()
        ask(connection, GOOD)
        times_s.append(time.perf_counter() - begun)
    assert min(times_s) < 0.03  # the wait for a delayed acknowledgement is 0.04


def test_a_body_may_come_in_chunks_and_compressed(connection: http.client.HTTPConnection) -> None:
    answer = (200, {"predictions": [3.5]})
    parts = iter([b'{"inst', b'ances": [', b"1]}"])
    assert ask(connection, parts, Transfer_Encoding="chunked") == answer
    assert ask(connection, gzip.compress(GOOD, mtime=0), Content_Encoding="gzip") == answer
    assert ask(connection, GOOD, Content_Encoding="gzip")[0] == 400
    assert ask(connection, GOOD, Content_Encoding="identity") == answer


def test_deep_lists_and_long_values_are_an_answer_not_a_crash(connection: http.client.HTTPConnection) -> None:
    for depth in (70, 500, 50_000):
        status, answer = ask(connection, b'{"instances": ' + b"[" * depth + b"]" * depth + b"}")
        assert (status, list(answer)) == (400, ["error"])
    status, answer = ask(connection, json.dumps({"instances": "x" * 10_000}))
    assert status == 400 and len(answer["error"]) < 400


def test_an_occupied_port_is_said_before_models_are_loaded(toy_server: Any, toy_models: Any) -> None:
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    rest = int(urlsplit(toy_server.rest_address).port or 0)
    grpc = int(toy_server.grpc_address.rpartition(":")[2])
    said: list[str] = []
    with pytest.raises(InputError, match=rf":{rest} \(REST\): .* --rest-port"):
        EmbeddedServer(toy_models, ServerOptions(grpc_port=0, rest_port=rest), said.append)
    with pytest.raises(InputError, match=rf":{grpc} \(gRPC\): .* --grpc-port"):
        EmbeddedServer(toy_models, ServerOptions(grpc_port=grpc, rest_port=0), said.append)
    assert said == []


Start = Callable[..., Any]
BIG = 16 << 20  # bytes of the page at /big: more than the kernel takes for a client that does not read


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers without models: a request that is read whole gets status 404."""
    from genre_tf.serving.embedded.manager import ModelManager
    from genre_tf.serving.embedded.metrics import ServerMetrics
    from genre_tf.serving.embedded.rest import RestLimits, RestServer

    started: list[Any] = []

    class Metrics(ServerMetrics):
        def page(self) -> bytes:
            return bytes(BIG)

    def make(**limits: Any) -> Any:
        parts, to = (ModelManager(), Metrics()), {"host": "127.0.0.1", "port": 0}
        server = RestServer(*parts, **to, threads=4, metrics_path="/big", limits=RestLimits(**limits))
        server.start()
        started.append(server)
        return server

    yield make
    for server in started:
        server.stop()


def opened(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def status_of(server: Any, head: bytes, body: bytes = b"") -> int:
    """The status of a request for a prediction with these headers."""
    with opened(server) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % (PATH.encode(), head) + body)
        return int(connection.recv(65536).split()[1])


def still_answers(server: Any) -> bool:
    return status_of(server, b"Content-Length: %d" % len(GOOD), GOOD) == 404


LONG = GOOD + b" " * (101 - len(GOOD))


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"Content-Length: 100", LONG[:100], 404),
        (b"Content-Length: 101", LONG, 413),
        (b"Content-Length: 99999999999", b"", 413),
        (b"Content-Length: 4000000", b"0" * 4_000_000, 413),  # it sends on regardless, and reads why
        (b"Transfer-Encoding: chunked", b"65\r\n" + LONG + b"\r\n0\r\n\r\n", 413),
        (b"Content-Length: -1", b"", 400),
        (b"Content-Length: many", b"", 400),
        (b"Transfer-Encoding: chunked", b"zz\r\n", 400),
        (b"no header", b"", 400),
    ],
)
def test_only_a_body_within_the_limit_is_read(start: Start, head: bytes, body: bytes, status: int) -> None:
    server = start(body_bytes=100)
    assert status_of(server, head, body) == status
    assert still_answers(server)


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(LONG[:100], mtime=0), b"gzip", 404),
        (gzip.compress(LONG[:100], mtime=0), b"GZIP", 404),
        (gzip.compress(LONG, mtime=0), b"gzip", 413),
        (gzip.compress(bytes(20_000), mtime=0), b"gzip", 413),
        (zlib.compress(GOOD), b"gzip", 400),
        (gzip.compress(GOOD, mtime=0)[:-5], b"gzip", 400),
        (gzip.compress(GOOD, mtime=0) + b"more", b"gzip", 400),
        (zlib.compress(GOOD), b"deflate", 415),
        (GOOD, b"gzip, br", 415),
    ],
)
def test_a_compressed_body_is_inflated_up_to_the_limit(
    start: Start, body: bytes, encoding: bytes, status: int
) -> None:
    server = start(body_bytes=100)
    head = b"Content-Encoding: %s\r\nContent-Length: %d" % (encoding, len(body))
    assert status_of(server, head, body) == status
    assert still_answers(server)


def test_no_more_than_the_limit_is_ever_inflated(start: Start) -> None:
    server, bomb = start(body_bytes=100_000), gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    head = b"Content-Encoding: gzip\r\nContent-Length: %d" % len(bomb)
    assert status_of(server, head, bomb) == 413
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_body_that_trickles_is_given_up(start: Start) -> None:
    server = start(request_s=0.3)
    with opened(server) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nContent-Length: 9999\r\n\r\n" % PATH.encode())
        for _ in range(50):
            time.sleep(0.02)
            try:
                connection.sendall(b"1")
            except OSError:
                break
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert still_answers(server)


def until_closed(connection: socket.socket) -> bytes:
    """All that a server sends until it closes the connection."""
    received = bytearray()
    try:
        while part := connection.recv(1 << 20):
            received += part
    except ConnectionError:  # it was closed while this side still sent
        pass
    return bytes(received)


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /" + b"x" * 1000 + b" HTTP/1.1\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nA: " + b"x" * 1000 + b"\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n"],
        [b"GET / HTTP/1.1\r\nA: ", b"x" * 600, b"x" * 600],  # without an end
        [b"GET / HTTP/1.1\r\n", *[b"A: " + b"x" * 200 + b"\r\n"] * 10],
        [b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: " + b"x" * 600, b"x" * 600],
    ],
)
def test_too_long_a_head_is_refused(start: Start, parts: list[bytes]) -> None:
    server = start(head_bytes=1000, idle_s=30, head_s=30)
    with opened(server) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except ConnectionError:
                break
            time.sleep(0.02)
        begun = time.monotonic()
        answer = until_closed(connection)
        assert time.monotonic() - begun < 10
    assert b"HTTP/1.1 431 " in answer
    assert still_answers(server)


def test_a_head_without_an_end_takes_no_memory(start: Start) -> None:
    server = start()
    tracemalloc.start()
    with opened(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nA: ")
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"x" * (64 << 10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("sent", [b"", b"GET /v1/models/toy HTTP/1.1\r\nHost"])
def test_a_head_that_never_ends_is_given_up(start: Start, sent: bytes) -> None:
    server = start(head_s=0.3)
    for first in (b"", b"GET /v1/models/toy HTTP/1.1\r\n\r\n"):  # also after a request that was answered
        with opened(server) as connection:
            connection.sendall(first)
            if first:
                assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
            begun = time.monotonic()
            connection.settimeout(0.05)
            for byte in sent.ljust(1 + 100 * bool(sent), b"x"):
                try:
                    connection.sendall(bytes([byte]) if sent or first else b"")
                    if not connection.recv(65536):
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            connection.settimeout(20)
            until_closed(connection)
            assert time.monotonic() - begun < 3
    assert still_answers(server)


def test_slow_bodies_and_waiting_connections_are_not_taken_for_late_heads(start: Start) -> None:
    server = start(head_s=0.2)
    with opened(server) as connection:
        for _ in range(2):
            connection.sendall(b"POST %s HTTP/1.1\r\nContent-Length: 2\r\n\r\n{" % PATH.encode())
            time.sleep(0.4)
            connection.sendall(b"}")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 404 ")
            time.sleep(0.4)


def test_requests_that_do_not_wait_for_answers_are_bounded(start: Start) -> None:
    server, request = start(), b"GET /v1/models/toy HTTP/1.1\r\n\r\n"
    for count, refused in ((50, False), (5000, True)):
        with opened(server) as connection:
            connection.sendall(
                request * (count - 1) + request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            )
            answers = until_closed(connection)
            assert (b"HTTP/1.1 429 " in answers, answers.count(b"HTTP/1.1 404 ") < count) == (
                refused,
                refused,
            )
    assert still_answers(server)


def test_an_answer_that_is_not_taken_is_dropped(start: Start) -> None:
    server = start(answer_s=1)
    for waits_s, whole in ((0, True), (2, False)):
        with opened(server) as connection:
            connection.sendall(b"GET /big HTTP/1.1\r\nConnection: close\r\n\r\n")
            time.sleep(waits_s)
            assert (len(until_closed(connection)) > BIG) is whole


def test_an_idle_connection_is_closed(start: Start) -> None:
    server = start(idle_s=1)
    with opened(server) as connection:
        connection.sendall(b"GET /v1/models/toy HTTP/1.1\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65536)
        begun = time.monotonic()
        assert connection.recv(65536) == b""
        assert time.monotonic() - begun < 10


def test_too_many_connections_are_refused_and_freed_ones_are_used_again(start: Start) -> None:
    server = start(connections=3)
    holders = [opened(server) for _ in range(2)]
    time.sleep(0.2)
    assert status_of(server, b"Content-Length: 0") == 503
    for holder in holders:
        holder.close()
    deadline = time.monotonic() + 10
    while not still_answers(server):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_far_too_many_connections_are_closed_at_once(start: Start) -> None:
    server = start(connections=1, head_s=30)
    holders = [opened(server) for _ in range(101)]
    with opened(server) as one_more:
        assert until_closed(one_more) == b""
    for holder in holders:
        holder.close()


def test_many_at_once_are_all_answered(start: Start) -> None:
    server = start()
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(still_answers(server))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [True] * 100
