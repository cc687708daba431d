"""New versions come while requests run: none fails, and each is answered by a version that was served."""

import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

SWAPS = 20
THREADS = 4


@pytest.fixture
def live(toy_models: Path, tmp_path: Path) -> Iterator[Any]:
    """A server of version 1 alone, that looks for new ones all the time."""
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    shutil.copytree(toy_models / "toy" / "1", tmp_path / "toy" / "1")
    (tmp_path / "models.config").write_text(
        'model_config_list { config { name: "toy" base_path: "/models/toy" } }'
    )
    (tmp_path / "batching.config").write_text("max_batch_size { value: 8 }")
    options = ServerOptions(grpc_port=0, rest_port=0, poll_s=0.01)
    with EmbeddedServer(tmp_path, options) as server:
        yield server, tmp_path


class Askers:
    """Threads that ask by both protocols until told to stop."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.stop = threading.Event()
        self.faults: list[str] = []
        self.answered = 0
        self.lock = threading.Lock()
        asks = [self.ask_rest, self.ask_grpc] * (THREADS // 2)
        self.threads = [threading.Thread(target=ask) for ask in asks]
        for thread in self.threads:
            thread.start()

    def note(self, value: float, version: int | None = None) -> None:
        # Even versions are copies of version 2 (x/2 + 3), odd ones of version 1 (x/2 + 2).
        with self.lock:
            self.answered += 1
            if value not in (2.5, 3.5) or (version is not None and value != (2.5, 3.5)[version % 2 == 0]):
                self.faults.append(f"version {version} answered {value}")

    def fail(self, text: str) -> None:
        with self.lock:
            self.faults.append(text)

    def ask_rest(self) -> None:
        host, port = self.server.rest_address.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        while not self.stop.is_set():
            connection.request("POST", "/v1/models/toy:predict", body=b'{"instances": [1]}')
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                self.fail(body.decode())
                return
            self.note(json.loads(body)["predictions"][0])
        connection.close()

    def ask_grpc(self) -> None:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
        with grpc.insecure_channel(self.server.grpc_address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self.stop.is_set():
                try:
                    response = stub.Predict(request, timeout=30)
                except grpc.RpcError as error:
                    self.fail(str(error))
                    return
                self.note(response.outputs["y"].float_val[0], response.model_spec.version.value)

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(30)


def publish(models: Path, toy: Path, version: int) -> None:
    beside = models / "toy" / f".{version}"
    shutil.copytree(toy / ("2" if version % 2 == 0 else "1"), beside)
    beside.rename(models / "toy" / str(version))


def until_served(server: Any, version: int) -> None:
    deadline = time.monotonic() + 60
    while server.versions != {"toy": [version]}:
        assert time.monotonic() < deadline, server.versions
        time.sleep(0.002)


def test_twenty_swaps_while_requests_run_and_none_fails(live: Any, toy_models: Path) -> None:
    from genre_tf.serving.embedded.manager import ModelSpec

    server, models = live
    askers = Askers(server)
    try:
        for version in range(2, 2 + SWAPS):
            publish(models, toy_models / "toy", version)
            until_served(server, version)
            shutil.rmtree(models / "toy" / str(version - 1))
    finally:
        askers.end()
    assert askers.faults == []
    assert askers.answered > 10 * SWAPS
    assert not any(thread.is_alive() for thread in askers.threads)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        states = {state.version: state.state for state in server._manager.states(ModelSpec("toy"))}
        if "UNLOADING" not in states.values():
            break
        time.sleep(0.01)
    assert states == dict.fromkeys(range(1, 1 + SWAPS), "END") | {1 + SWAPS: "AVAILABLE"}


def test_broken_versions_between_leave_answers_as_they_are(live: Any, toy_models: Path) -> None:
    server, models = live
    askers = Askers(server)
    try:
        (models / "toy" / "5").mkdir()
        beside = models / "toy" / ".6"  # broken before it appears: a whole copy would be loaded
        shutil.copytree(toy_models / "toy" / "2", beside)
        (beside / "saved_model.pb").write_bytes(b"\xffno graph")
        beside.rename(models / "toy" / "6")
        time.sleep(0.3)
        assert server.versions == {"toy": [1]}
        publish(models, toy_models / "toy", 8)
        until_served(server, 8)
    finally:
        askers.end()
    assert askers.faults == []
