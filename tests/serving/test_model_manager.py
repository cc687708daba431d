"""What a server loads and says: broken versions left out, lookups and TensorFlow Text ops at work."""

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from genre_tf.errors import InputError


@pytest.fixture
def broken_models(toy_models: Path, tmp_path: Path) -> Path:
    """Version 1 is whole, version 2 is no graph, version 3 is half-written."""
    shutil.copytree(toy_models / "toy", tmp_path / "toy")
    (tmp_path / "toy" / "2" / "saved_model.pb").write_bytes(b"\xffnot a graph")
    (tmp_path / "toy" / "3").mkdir()
    return tmp_path


def ask(server: Any, path: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(server.rest_address + path, body, timeout=30) as answer:
        return json.loads(answer.read())


def test_broken_versions_are_said_and_the_newest_whole_one_answers(broken_models: Path) -> None:
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    said: list[str] = []
    with EmbeddedServer(broken_models, ServerOptions(grpc_port=0, rest_port=0), said.append) as server:
        assert server.versions == {"toy": [1]}
        assert [line.split()[0] for line in said] == ["left", "left", "loaded"]
        assert "saved_model.pb is missing" in said[0]
        assert "does not load" in said[1]
        assert ask(server, "/v1/models/toy:predict", b'{"instances": [1]}') == {"predictions": [2.5]}
        states = ask(server, "/v1/models/toy")["model_version_status"]
    found = [(state["version"], state["state"]) for state in states]
    assert found == [("3", "END"), ("2", "END"), ("1", "AVAILABLE")]
    for state in states[:2]:
        assert state["status"]["error_code"] != "OK"
        assert state["status"]["error_message"]


def test_a_model_of_which_nothing_loads_is_an_error(broken_models: Path) -> None:
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    shutil.rmtree(broken_models / "toy" / "1")
    with pytest.raises(InputError, match="no version of model toy loads"):
        EmbeddedServer(broken_models, ServerOptions(grpc_port=0, rest_port=0))


@pytest.fixture(scope="module")
def text_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TensorFlow 2 export with a variable, a lookup table and a TensorFlow Text op."""
    import tensorflow as tf
    import tensorflow_text as text

    class Lowered(tf.Module):
        def __init__(self) -> None:
            keys, values = tf.constant(["storm", "cup"]), tf.constant([1.0, 2.0])
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)
            self.weight = tf.Variable(10.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def weigh(self, title: Any) -> dict[str, Any]:
            return {"weight": self.table.lookup(text.case_fold_utf8(title)) * self.weight}

    folder = tmp_path_factory.mktemp("text_models")
    module = Lowered()
    tf.saved_model.save(module, str(folder / "lowered" / "1"), {"serving_default": module.weigh})
    return folder


def test_tables_variables_and_text_ops_work_by_session(text_models: Path) -> None:
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    with EmbeddedServer(text_models, ServerOptions(grpc_port=0, rest_port=0)) as server:
        body = json.dumps({"instances": ["STORM", "Cup", "?"]}).encode()
        answer = ask(server, "/v1/models/lowered:predict", body)
        assert answer == {"predictions": [10.0, 20.0, 0.0]}


def test_grpc_health_says_serving(toy_server: Any) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(toy_server.grpc_address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_what_is_loaded_after_the_end_is_freed_at_once() -> None:
    from genre_tf.serving.embedded.manager import ModelManager

    class Late:
        name, version, closed = "news", 9, False

        def close(self) -> None:
            self.closed = True

    manager, late = ModelManager(), Late()
    manager.close()
    manager.add(late)  # type: ignore[arg-type]
    assert late.closed
    assert manager.versions == {}


def test_only_so_many_ended_versions_are_remembered() -> None:
    from genre_tf.serving.embedded.manager import ModelManager, ModelSpec, VersionState

    manager = ModelManager()
    manager.set_state("news", VersionState(1, "LOADING"))
    for version in range(2, 300):
        manager.set_state("news", VersionState(version, "END"))
    states = [state.version for state in manager.states(ModelSpec("news"))]
    assert states == [*range(299, 199, -1), 1]
