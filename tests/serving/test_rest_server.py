"""The HTTP server: limits, keep-alive, chunks, odd requests; afterwards it still answers."""

import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from genre_tf.errors import InputError

PREDICT = "/v1/models/toy:predict"


@pytest.fixture
def connection(toy_server: Any) -> Iterator[http.client.HTTPConnection]:
    address = urlsplit(toy_server.rest_address)
    opened = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    yield opened
    opened.close()


def ask(connection: http.client.HTTPConnection, document: Any) -> tuple[int, Any]:
    connection.request("POST", PREDICT, body=json.dumps(document))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def raw(toy_server: Any, request: bytes) -> bytes:
    address = urlsplit(toy_server.rest_address)
    with socket.create_connection((address.hostname, address.port), timeout=30) as opened:
        opened.sendall(request)
        answer = b""
        while part := opened.recv(65536):
            answer += part
    return answer


def test_one_connection_carries_many_requests(connection: http.client.HTTPConnection) -> None:
    for number in range(3):
        assert ask(connection, {"instances": [number]}) == (200, {"predictions": [number / 2 + 3]})


def test_a_body_may_come_in_chunks(connection: http.client.HTTPConnection) -> None:
    parts = iter([b'{"inst', b'ances": [', b"1]}"])
    connection.request(
        "POST", PREDICT, body=parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert json.loads(connection.getresponse().read()) == {"predictions": [3.5]}


def test_a_compressed_body_gets_the_same_answer_and_a_bad_one_leaves_the_connection_open(
    connection: http.client.HTTPConnection,
) -> None:
    document = json.dumps({"instances": [1, 2]}).encode()
    for body, status in ((document, 400), (gzip.compress(document), 200)):
        connection.request("POST", PREDICT, body=body, headers={"Content-Encoding": "gzip"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == status, answer
    assert (200, answer) == ask(connection, {"instances": [1, 2]}) == (200, {"predictions": [3.5, 4.0]})


def test_a_body_over_the_limit_is_refused_unread(toy_server: Any) -> None:
    answer = raw(toy_server, b"POST %s HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" % PREDICT.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"bytes; the limit is " in answer


@pytest.mark.parametrize("length", [b"-1", b"many", b"1e3"])
def test_a_length_that_is_none_is_refused(toy_server: Any, length: bytes) -> None:
    answer = raw(toy_server, b"POST %s HTTP/1.1\r\nContent-Length: %s\r\n\r\n" % (PREDICT.encode(), length))
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_chunks_that_are_none_are_refused(toy_server: Any) -> None:
    head = b"POST %s HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" % PREDICT.encode()
    assert raw(toy_server, head + b"zz\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(toy_server, head + b"ffffffffff\r\n").startswith(b"HTTP/1.1 413 ")


def test_deep_lists_are_an_answer_not_a_crash(connection: http.client.HTTPConnection) -> None:
    for depth in (70, 500, 50_000):
        connection.request("POST", PREDICT, body=b'{"instances": ' + b"[" * depth + b"]" * depth + b"}")
        response = connection.getresponse()
        assert response.status == 400
        assert "error" in json.loads(response.read())
    assert ask(connection, {"instances": [1]})[0] == 200


def test_long_values_are_quoted_in_part(connection: http.client.HTTPConnection) -> None:
    status, answer = ask(connection, {"instances": 1, "more": list(range(10_000))})
    assert status == 400
    assert len(answer["error"]) < 400


def test_numbers_beyond_their_type(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, {"signature_name": "two", "instances": [{"a": 1, "b": 2**70}]})[0] == 400
    connection.request("POST", PREDICT, body=b'{"instances": [1e39]}')
    assert connection.getresponse().read() == b'{\n    "predictions": [Infinity\n    ]\n}'


def test_preflight_of_a_browser(toy_server: Any, connection: http.client.HTTPConnection) -> None:
    connection.request("OPTIONS", PREDICT, headers={"Origin": "https://news.example"})
    assert connection.getresponse().status == 200


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
