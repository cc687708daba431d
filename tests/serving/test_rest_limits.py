"""What one REST client may take of the server: bytes, headers, time, connections; others still answer."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Api:
    """Answers each request with its body's length."""

    def __init__(self) -> None:
        self.requests = 0

    def answer(self, method: str, path: str, body: bytes, origin: str) -> Any:
        from genre_tf.serving.rest_api import Answer

        self.requests += 1
        content = b"x" * (32 << 20) if path == "/large" else str(len(body)).encode()
        return Answer(200, "text/plain", content)


Start = Callable[..., Any]


@pytest.fixture
def start() -> Iterator[Start]:
    from genre_tf.serving.in_flight import InFlight
    from genre_tf.serving.rest_server import RestLimits, RestServer

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
