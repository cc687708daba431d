"""What one REST client may take of the server: bytes, headers, time, connections; others still answer."""

import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Api:
    """Answers each request with its body's length."""

    def __init__(self) -> None:
        self.requests = 0

    def answer(self, method: str, path: str, body: bytes, origin: str) -> Any:
        from genre_tf.serving.embedded.rest_api import Answer

        self.requests += 1
        content = b"x" * (32 << 20) if path == "/large" else body if path == "/echo" else b"%d" % len(body)
        return Answer(200, "text/plain", content)


Start = Callable[..., Any]


@pytest.fixture
def start() -> Iterator[Start]:
    from genre_tf.serving.embedded.in_flight import InFlight
    from genre_tf.serving.embedded.rest_server import RestLimits, RestServer

    started: list[Any] = []

    def make(**limits: Any) -> Any:
        api: Any = Api()
        server = RestServer(api, "127.0.0.1", 0, RestLimits(**limits), InFlight())
        server.start()
        started.append(server)
        return server

    yield make
    for server in started:
        server.stop()


def opened(server: Any) -> socket.socket:
    return socket.create_connection(server.server_address, timeout=20)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:  # the server closed while bytes were still on their way to it
            return answer
        if not part:
            return answer
        answer += part


def ask(server: Any, request: bytes) -> bytes:
    with opened(server) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


GOOD = b"POST /x HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"


def still_answers(server: Any) -> bool:
    return ask(server, GOOD).endswith(b"\r\n\r\n2")


def test_a_silent_connection_is_closed(start: Start) -> None:
    server = start(idle_s=0.1)
    with opened(server) as connection:
        begun = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - begun < 10
    assert still_answers(server)


@pytest.mark.parametrize("part", ["request line", "headers", "body", "chunks"])
def test_a_request_that_trickles_is_given_up(start: Start, part: str) -> None:
    head = {
        "request line": b"POST /xxxx",
        "headers": b"POST /x HTTP/1.1\r\nA: ",
        "body": b"POST /x HTTP/1.1\r\nContent-Length: 9999\r\n\r\n",
        "chunks": b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n270f\r\n",
    }[part]
    server = start(idle_s=10, request_s=0.3)
    with opened(server) as connection:
        connection.sendall(head)
        begun = time.monotonic()
        with pytest.raises(OSError):  # it goes on sending, a byte at a time, until nobody listens
            while True:
                assert time.monotonic() - begun < 15
                connection.sendall(b"1")
                time.sleep(0.02)
    assert server.api.requests == 0
    assert still_answers(server)


def test_a_client_that_does_not_take_its_answer_is_given_up(start: Start) -> None:
    server = start(answer_s=0.2)
    with opened(server) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        deadline = time.monotonic() + 15
        while server._free._value < server.limits.connections and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(read_all(connection)) < 32 << 20
    assert still_answers(server)


def test_the_time_of_a_request_begins_with_its_first_byte(start: Start) -> None:
    server = start(idle_s=10, request_s=0.3)
    with opened(server) as connection:
        for _ in range(3):
            time.sleep(0.4)
            connection.sendall(GOOD)
            assert connection.recv(65536).endswith(b"2")


def test_too_many_connections_are_closed_and_freed_ones_are_used_again(start: Start) -> None:
    server = start(connections=2)
    holders = [opened(server) for _ in range(2)]
    for holder in holders:
        holder.sendall(GOOD)
        assert holder.recv(65536).endswith(b"2")
    with opened(server) as one_more:
        assert read_all(one_more) == b""
    holders[0].close()
    deadline = time.monotonic() + 10
    while server._free._value == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert still_answers(server)
    holders[1].close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /x HTTP/1.1\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /x HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"POST /x HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n", 413),
        (b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /x HTTP/9.9\r\n\r\n", 505),
        (b"BREW /x HTTP/1.1\r\n\r\n", 501),
        (b"\x00\xff\xfe\r\n\r\n", 400),
    ],
)
def test_what_is_too_long_or_no_http_is_refused(start: Start, request_bytes: bytes, status: int) -> None:
    server = start(body_bytes=100)
    answer = ask(server, request_bytes)
    assert answer.split(b" ", 2)[1:2] == [str(status).encode()] or b"Error code: %d" % status in answer, (
        answer
    )
    assert server.api.requests == 0
    assert still_answers(server)


def encoded(body: bytes, encoding: bytes, *, chunked: bool = False) -> bytes:
    head = b"POST /echo HTTP/1.1\r\nContent-Encoding: %s\r\n" % encoding
    if chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("encoding", [b"gzip", b"GZIP", b"x-gzip"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_gzip_body_is_inflated(start: Start, encoding: bytes, chunked: bool) -> None:
    answer = ask(start(), encoded(gzip.compress(b"news", mtime=0), encoding, chunked=chunked))
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nnews")


def test_an_uncompressed_body_may_say_so_and_no_body_needs_no_gzip(start: Start) -> None:
    assert ask(start(), encoded(b"news", b"identity")).endswith(b"\r\n\r\nnews")
    assert ask(start(), encoded(b"", b"gzip")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("body", "encoding", "status", "reason"),
    [
        (gzip.compress(b"x" * 101, mtime=0), b"gzip", 413, b"inflates to more than the limit of 100 bytes"),
        (
            gzip.compress(b"x" * 20_000, mtime=0),
            b"gzip",
            413,
            b"inflates to more than the limit of 100 bytes",
        ),
        (b"{}", b"gzip", 400, b"is not gzip"),
        (zlib.compress(b"{}"), b"gzip", 400, b"is not gzip"),
        (gzip.compress(b"news", mtime=0)[:-5], b"gzip", 400, b"cut short"),
        (gzip.compress(b"news", mtime=0) + b"more", b"gzip", 400, b"more follows"),
        (zlib.compress(b"{}"), b"deflate", 415, b"must be gzip or absent; got 'deflate'"),
        (b"{}", b"gzip, br", 415, b"got 'gzip, br'"),
    ],
)
def test_an_encoded_body_that_is_too_long_or_no_gzip_is_refused(
    start: Start, body: bytes, encoding: bytes, status: int, reason: bytes
) -> None:
    server = start(body_bytes=100)
    answer = ask(server, encoded(body, encoding))
    assert answer.startswith(b"HTTP/1.1 %d " % status) and reason in answer
    assert server.api.requests == 0
    assert still_answers(server)


def test_a_gzip_body_of_exactly_the_limit_is_accepted(start: Start) -> None:
    assert ask(start(body_bytes=100), encoded(gzip.compress(b"x" * 100, mtime=0), b"gzip")).endswith(
        b"x" * 100
    )


def test_no_more_than_the_limit_is_ever_inflated() -> None:
    from genre_tf.serving.embedded.rest_server import _inflated

    bomb = gzip.compress(bytes(32 << 20))
    tracemalloc.start()
    body, refusal = _inflated(bomb, 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (body, refusal and refusal.status) == (b"", 413)
    assert peak < 1 << 20


def test_a_client_that_sends_on_regardless_still_reads_why_it_was_refused(start: Start) -> None:
    server = start(body_bytes=100)
    with opened(server) as connection:
        connection.sendall(b"POST /x HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n" + b"0" * 4_000_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_many_at_once_are_all_answered(start: Start) -> None:
    server = start()
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(still_answers(server))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [True] * 100
