"""The end of a server: health says so, what runs is let end, what is new is refused, nothing hangs."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest


class Held:
    """A server of the toy whose runs wait at a gate."""

    def __init__(self, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from genre_tf.serving.embedded.servable import Servable
        from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        run = Servable._run_graph

        def held(servable: Any, feeds: Any, fetches: Any) -> Any:
            self.entered.release()
            assert self.gate.wait(20)
            return run(servable, feeds, fetches)

        monkeypatch.setattr(Servable, "_run_graph", held)
        self.server = EmbeddedServer(models, ServerOptions(grpc_port=0, rest_port=0, grace_s=15))

    def rest(self) -> tuple[int, Any]:
        host, port = self.server.rest_address.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request("POST", "/v1/models/toy:predict", body=b'{"instances": [1]}')
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def predict(self, channel: grpc.Channel) -> Any:
        return self.predict_later(channel).result()

    def predict_later(self, channel: grpc.Channel) -> Any:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return stub.Predict.future(request, timeout=30)


@pytest.fixture
def held(toy_models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held(toy_models, monkeypatch)
    yield made
    made.gate.set()


def test_a_server_that_ends_says_so_refuses_and_lets_requests_end(held: Held) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with ThreadPoolExecutor(4) as pool, grpc.insecure_channel(held.server.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        seen = health.Watch(health_pb2.HealthCheckRequest(service="PredictionService"), timeout=30)
        assert next(seen).status == health_pb2.HealthCheckResponse.SERVING
        running = [pool.submit(held.rest), pool.submit(held.predict, channel)]
        for _ in running:
            assert held.entered.acquire(timeout=10)
        ending = pool.submit(held.server.stop)
        assert next(seen).status == health_pb2.HealthCheckResponse.NOT_SERVING
        asked = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert asked.status == health_pb2.HealthCheckResponse.NOT_SERVING
        deadline = time.monotonic() + 10
        while not held.server._manager._draining and time.monotonic() < deadline:
            time.sleep(0.001)
        assert held.rest() == (503, {"error": "the server is shutting down"})
        with pytest.raises(grpc.RpcError) as caught:
            held.predict(channel)
        error: Any = caught.value
        assert (error.code(), error.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the server is shutting down",
        )
        held.gate.set()
        assert running[0].result(10) == (200, {"predictions": [3.5]})
        assert list(running[1].result(10).outputs["y"].float_val) == [3.5]
        ending.result(10)
        with pytest.raises(OSError):
            held.rest()


def test_a_version_stays_while_a_request_runs_whose_client_has_hung_up(held: Held) -> None:
    from genre_tf.serving.embedded.manager import ModelSpec

    manager = held.server._manager
    newest = manager.versions["toy"][0]

    def state() -> str:
        return manager.states(ModelSpec("toy", version=newest))[0].state

    with grpc.insecure_channel(held.server.grpc_address) as channel:
        asked = held.predict_later(channel)
        assert held.entered.acquire(timeout=10)
        asked.cancel()
        time.sleep(0.3)
        manager.remove("toy", newest)
        time.sleep(0.3)
        assert state() == "UNLOADING"
        held.gate.set()
        deadline = time.monotonic() + 10
        while state() != "END" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state() == "END"
    held.server.stop()


def test_a_request_that_never_ends_does_not_keep_the_server(held: Held) -> None:
    manager = held.server._manager
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(held.rest)
        assert held.entered.acquire(timeout=10)
        started = time.monotonic()
        assert not manager.drain(0.1)
        assert time.monotonic() - started < 5
        held.gate.set()
        assert running.result(10)[0] == 200
        assert manager.drain(1.0)
    held.server.stop()


def test_who_watches_hears_of_the_end_though_another_has_left(toy_models: Path) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    server = EmbeddedServer(toy_models, ServerOptions(grpc_port=0, rest_port=0))
    with grpc.insecure_channel(server.grpc_address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        stays, leaves = (health.Watch(health_pb2.HealthCheckRequest(), timeout=30) for _ in range(2))
        unknown = health.Watch(health_pb2.HealthCheckRequest(service="none"), timeout=30)
        assert next(stays).status == next(leaves).status == health_pb2.HealthCheckResponse.SERVING
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="none"), timeout=30)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.NOT_FOUND
        leaves.cancel()
        time.sleep(0.2)
        server._grpc.say_not_serving()
        assert next(stays).status == health_pb2.HealthCheckResponse.NOT_SERVING
        server.stop()
        server.stop()  # has nothing left to do


def test_a_server_that_does_not_start_leaves_its_ports(toy_models: Path, tmp_path: Path) -> None:
    import socket

    from genre_tf.errors import InputError
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "saved_model.pb").write_bytes(b"\x00")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ServerOptions(grpc_port=port, rest_port=0)
    for _ in range(2):
        with pytest.raises(InputError, match="no version of model broken loads"):
            EmbeddedServer(tmp_path, options)
    with EmbeddedServer(toy_models, options) as server:
        assert server.versions


def test_idle_connections_and_watchers_do_not_hold_up_the_end(toy_models: Path) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    server = EmbeddedServer(toy_models, ServerOptions(grpc_port=0, rest_port=0, grace_s=60))
    host, port = server.rest_address.removeprefix("http://").split(":")
    idle = http.client.HTTPConnection(host, int(port), timeout=30)
    idle.request("GET", "/v1/models/toy")
    idle.getresponse().read()
    with grpc.insecure_channel(server.grpc_address) as channel:
        seen = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        next(seen)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 10
    idle.close()
