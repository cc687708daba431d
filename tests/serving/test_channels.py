"""What is sent again and what is not, against servers that fail in given ways; and errors in plain words."""

import asyncio
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from genre_tf.errors import FailureError, InputError
from genre_tf.serving import AsyncClient, Client
from genre_tf.serving.client import calls
from genre_tf.serving.client.channels import check_server


class Failing(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Fails a number of times, then answers `embed_news`."""

    def __init__(self, code: grpc.StatusCode, details: str, failures: int) -> None:
        self.code, self.details, self.failures = code, details, failures
        self.asked = 0

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked += 1
        if self.asked <= self.failures:
            context.abort(self.code, self.details)
        response = predict_pb2.PredictResponse()
        calls.write_proto(np.ones((1, 2), np.float32), response.outputs["embedding"])
        return response


@contextmanager
def serving(service: Failing) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_a_server_that_is_away_for_a_moment_is_asked_again() -> None:
    service = Failing(grpc.StatusCode.UNAVAILABLE, "going away", failures=2)
    with serving(service) as address, Client(address) as client:
        np.testing.assert_array_equal(client.embed_news(["a"]), [[1, 1]])
    assert service.asked == 3


def test_all_servers_behind_a_name_are_asked() -> None:
    services = [Failing(grpc.StatusCode.OK, "", failures=0) for _ in range(2)]
    with serving(services[0]) as one, serving(services[1]) as two, Client(f"ipv4:{one},{two}") as client:
        deadline = time.monotonic() + 10
        while not all(service.asked for service in services) and time.monotonic() < deadline:
            client.embed_news(["a"])
        before = [service.asked for service in services]
        for _ in range(10):
            client.embed_news(["a"])
    assert [service.asked - asked for service, asked in zip(services, before, strict=True)] == [5, 5]


def test_a_server_that_stays_away_is_not_asked_for_ever() -> None:
    service = Failing(grpc.StatusCode.UNAVAILABLE, "batch scheduling queue is full", failures=1000)
    with serving(service) as address, Client(address) as client:
        with pytest.raises(FailureError, match="is overloaded, its queue is full"):
            client.embed_news(["a"])
        assert service.asked == 4
        for _ in range(8):
            with pytest.raises(FailureError):
                client.embed_news(["a"])
        assert service.asked <= 4 + 8 + 4, "with many failures, each request is sent once only"


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InputError, "refused the request: because"),
        (grpc.StatusCode.INTERNAL, FailureError, r"failed \(INTERNAL\): because"),
    ],
)
def test_what_would_fail_again_is_asked_once(code: grpc.StatusCode, error: Any, words: str) -> None:
    service = Failing(code, "because", failures=1)
    with serving(service) as address, Client(address) as client, pytest.raises(error, match=words):
        client.embed_news(["a"])
    assert service.asked == 1


def test_a_server_without_a_free_thread_is_asked_again() -> None:
    service = Failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted", failures=2)
    with serving(service) as address, Client(address) as client:
        np.testing.assert_array_equal(client.embed_news(["a"]), [[1, 1]])
    assert service.asked == 3


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ("Server Threadpool Exhausted", "has no free thread .*: ask again, or .* --grpc_max_threads"),
        ("Concurrent RPC limit exceeded!", "has no free thread .*: ask again"),
        ("Received message larger than max (9 vs. 8)", r"too large for the server at .*: ask for less"),
    ],
)
def test_exhausted_threads_and_a_large_request_are_told_apart(details: str, words: str) -> None:
    service = Failing(grpc.StatusCode.RESOURCE_EXHAUSTED, details, failures=1000)
    with (
        serving(service) as address,
        Client(address) as client,
        pytest.raises(FailureError, match=words),
    ):
        client.embed_news(["a"])


@pytest.mark.parametrize("details", ["Received message larger than max", "OOM when allocating tensor"])
def test_a_request_that_is_too_large_is_sent_once(details: str) -> None:
    service = Failing(grpc.StatusCode.RESOURCE_EXHAUSTED, details, failures=1000)
    with (
        serving(service) as address,
        Client(address) as client,
        pytest.raises(FailureError, match="ask for less"),
    ):
        client.embed_news(["a"])
    assert service.asked == 1


def test_an_asyncio_client_asks_again_while_no_thread_is_free_within_its_deadline() -> None:
    async def vectors(address: str, timeout_s: float) -> Any:
        async with AsyncClient(address, timeout_s) as client:
            return await client.embed_news(["a"])

    service = Failing(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted", failures=2)
    with serving(service) as address:
        np.testing.assert_array_equal(asyncio.run(vectors(address, 10)), [[1, 1]])
        assert service.asked == 3
        service.asked, service.failures = 0, 1000
        with pytest.raises(FailureError, match="has no free thread"):
            asyncio.run(vectors(address, 10))
    assert service.asked == 4


def test_another_model_under_the_name_is_said_plainly() -> None:
    service = Failing(grpc.StatusCode.OK, "", failures=0)
    words = "`recommend` is not what genre_tf exports"
    with (
        serving(service) as address,
        Client(address) as client,
        pytest.raises(FailureError, match=words),
    ):
        client.recommend([[]])


def test_explanations_lose_their_padding() -> None:
    call = calls.explain([["N1", "N2"], ["N3"]], [["N4"], ["N5", "N6"]])
    first, second = call.read(
        {
            "history_id": np.array([[b"N1", b"N2"], [b"N3", b""]], object),
            "weight": np.array([[[0.25, 0.75], [-1, -1]], [[1, 0], [1, 0]]], np.float32),
        }
    )
    assert [(one.news_id, one.weights) for one in first] == [("N4", [("N1", 0.25), ("N2", 0.75)])]
    assert [(one.news_id, one.weights) for one in second] == [("N5", [("N3", 1.0)]), ("N6", [("N3", 1.0)])]


def test_a_check_for_a_server_does_not_wait_for_retries() -> None:
    started = time.monotonic()
    with pytest.raises(FailureError, match="genre serve MODELS"):
        check_server("127.0.0.1:1", timeout_s=10)
    assert time.monotonic() - started < 0.5


def test_a_check_for_a_server_is_no_request() -> None:
    service = Failing(grpc.StatusCode.INTERNAL, "because", failures=1)
    with serving(service) as address:
        check_server(address, timeout_s=10)
    assert service.asked == 0


PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


@pytest.fixture
def no_proxy_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "all_proxy", "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_proxy_set")
@pytest.mark.parametrize("variable", [*PROXIES, "all_proxy"])
def test_a_server_on_this_machine_is_never_asked_through_a_proxy(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with serving(Failing(grpc.StatusCode.OK, "", failures=0)) as address:
        for name in (address, address.replace("127.0.0.1", "localhost"), f"dns:///{address}"):
            check_server(name, timeout_s=5)
            with Client(name) as client:
                assert client.embed_news(["a"]).shape == (1, 2)


@pytest.mark.usefixtures("no_proxy_set")
@pytest.mark.parametrize("variable", PROXIES)
def test_an_unreachable_server_elsewhere_names_the_proxy(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    words = f"at news.invalid:8500 through the proxy in {variable} .* or unset {variable}"
    with pytest.raises(FailureError, match=words):
        check_server("news.invalid:8500", timeout_s=5)


@pytest.mark.usefixtures("no_proxy_set")
def test_a_host_that_needs_no_proxy_blames_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "news.invalid")
    with pytest.raises(FailureError, match=r"or give its address$"):
        check_server("news.invalid:8500", timeout_s=5)


@pytest.mark.usefixtures("no_proxy_set")
def test_the_asynchronous_client_reaches_this_machine_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def ask(address: str) -> Any:
        async with AsyncClient(address) as client:
            return await client.embed_news(["a"])

    with serving(Failing(grpc.StatusCode.OK, "", failures=0)) as address:
        assert asyncio.run(ask(address)).shape == (1, 2)
