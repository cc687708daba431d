"""Servers that the tests of this room share: one for the transcripts, one for the contract of genre_tf."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from hypothesis import settings

# Without a deadline (a first request prepares its graph) and without files of its own.
settings.register_profile("quick", max_examples=300, deadline=None, database=None, derandomize=True)
settings.register_profile("twenty-thousand", max_examples=5000, deadline=None, database=None)
settings.load_profile("quick")

TOY_CONFIG = """
model_config_list {{
  config {{
    name: "toy" base_path: "{base}" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
}}
"""


@pytest.fixture(scope="session")
def toy_models(transcripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The servable that the transcripts were recorded with, written by its own script."""
    folder = tmp_path_factory.mktemp("toy_models")
    spec = importlib.util.spec_from_file_location("make_toy_model", transcripts / "make_toy_model.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write(str(folder / "toy" / "1"), 2.0)
    script.write(str(folder / "toy" / "2"), 3.0)
    (folder / "models.config").write_text(TOY_CONFIG.format(base=folder / "toy"))
    return folder


@pytest.fixture(scope="session")
def toy_server(toy_models: Path) -> Iterator[Any]:
    """Optimizes its graphs as TensorFlow Serving does: that decides how some errors are worded."""
    import tensorflow as tf

    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    usual = tf.config.optimizer.get_experimental_options()
    with ExitStack() as stack:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
        server = stack.enter_context(EmbeddedServer(toy_models, ServerOptions(grpc_port=0, rest_port=0)))
        tf.config.optimizer.set_experimental_options(usual)  # its sessions keep theirs
        yield server


NEWS = {
    "N1": "Storm hits the coast",
    "N2": "Team wins the cup",
    "N3": "Bank raises rates",
    "N4": "新闻 today",
}
SCORES = [0.9, 0.7, 0.5, 0.3]


def write_recommender(folder: Path) -> None:
    """A recommender of four articles with DESIGN.md's signatures; each unread one keeps its fixed score."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        names = ("history", "history_text", "candidates", "candidates_text", "clicks", "views", "age_hours")
        fed = {name: v1.placeholder(tf.string, [None], name=name) for name in (*names, "text")}
        ids, titles = tf.constant(list(NEWS)), tf.constant(list(NEWS.values()))
        scores = tf.constant(SCORES)

        def words(name: str, mark: str = " ") -> Any:
            return tf.strings.split(fed[name], mark).to_tensor("")  # [B, longest]

        def funnel(name: str, mark: str, keys: Any) -> dict[str, Any]:
            read = tf.reduce_any(
                tf.equal(words(name, mark)[:, :, None], keys[None, None, :]), axis=1
            )  # [B, 4]
            best, place = tf.math.top_k(tf.where(read, -1.0, scores[None, :]), k=4)
            return {
                "news_id": tf.where(best < 0, "", tf.gather(ids, place)),
                "title": tf.where(best < 0, "", tf.gather(titles, place)),
                "score": best,
            }

        same = tf.equal(words("candidates")[:, :, None], ids[None, None, :])  # [B, C, 4]
        known = tf.reduce_any(same, axis=2)
        found = tf.reduce_sum(tf.where(same, scores[None, None, :], 0.0), axis=2)
        probability = tf.where(tf.equal(words("candidates"), ""), -1.0, found)
        clicks, views, ages = (
            tf.strings.to_number(tf.strings.split(fed[name], " ").to_tensor("0"))
            for name in ("clicks", "views", "age_hours")
        )
        lengths = tf.cast(tf.strings.length(words("candidates_text", "\n")), tf.float32)
        unit = tf.cast(tf.strings.length(fed["text"]), tf.float32)
        pair = ["history", "candidates"]
        _save(
            folder,
            session,
            {
                "recommend": ({"history": fed["history"]}, funnel("history", " ", ids)),
                "recommend_text": (
                    {"history_text": fed["history_text"]},
                    funnel("history_text", "\n", titles),
                ),
                "score": (
                    {name: fed[name] for name in pair},
                    {"click_probability": probability, "known": known},
                ),
                "score_text": (
                    {name: fed[name] for name in ("history_text", "candidates_text")},
                    {"click_probability": tf.where(lengths > 0, lengths / 100, -1.0)},
                ),
                "score_counters": (
                    {name: fed[name] for name in (*pair, "clicks", "views", "age_hours")},
                    {"click_probability": probability + clicks / (views + 1) + ages * 0, "known": known},
                ),
                "embed_news": ({"text": fed["text"]}, {"embedding": tf.stack([unit, -unit], axis=1)}),
            },
        )


def write_generator(folder: Path) -> None:
    """A generator with DESIGN.md's signatures: it writes its inputs down, twice where there is a source."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        history, source, kind = (
            v1.placeholder(tf.string, [None], name=name) for name in ("history_text", "source", "kind")
        )
        seed = v1.placeholder(tf.int64, [None], name="seed")
        titles = tf.strings.length(tf.strings.regex_replace(history, "[^\n]", "")) + 1
        first = tf.strings.join([kind, tf.as_string(titles), tf.as_string(seed)], "|")
        second = tf.where(tf.equal(source, ""), "", tf.strings.upper(source))
        text = tf.stack([first, second], axis=1)  # [B, 2]
        number = tf.where(tf.equal(text, ""), -1.0, 0.5)
        outputs = {"text": text, "interest": number, "log_probability": -number, "grounding": number}
        outputs["safe"] = tf.stack([tf.equal(source, source), tf.equal(source, "")], axis=1)
        inputs = {"history_text": history, "source": source, "kind": kind, "seed": seed}
        tone, topic = (v1.placeholder(tf.string, [None], name=name) for name in ("tone", "topic"))
        in_tone = tf.strings.join([first, tone, topic], "|")
        styled = (
            {**inputs, "tone": tone, "topic": topic},
            {**outputs, "text": tf.stack([in_tone, second], axis=1)},
        )
        question = v1.placeholder(tf.string, [None], name="question")
        nothing = tf.fill(tf.shape(question), "")
        unknown = tf.equal(question, "Who?")
        answer = tf.where(
            unknown, "", tf.strings.join([question, tf.as_string(titles), tf.as_string(seed)], "|")
        )
        evidence = tf.where(unknown, "", "N3")
        answers = {
            "text": tf.stack([answer, nothing], axis=1),
            "interest": tf.where(unknown, -1.0, 0.5)[:, None] * [[1.0, -2.0]],
            "evidence_id": tf.stack([evidence, nothing], axis=1),
            "evidence_title": tf.stack([evidence, nothing], axis=1),
        }
        asked = {"question": question, "history_text": history, "seed": seed}
        signatures = {"generate": (inputs, outputs), "generate_styled": styled, "answer": (asked, answers)}
        _save(folder, session, signatures)


def _save(folder: Path, session: Any, signatures: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    import tensorflow as tf

    saved_model = tf.compat.v1.saved_model
    info = saved_model.utils.build_tensor_info
    defs = {
        name: saved_model.signature_def_utils.build_signature_def(
            {key: info(value) for key, value in inputs.items()},
            {key: info(value) for key, value in outputs.items()},
            "tensorflow/serving/predict",
        )
        for name, (inputs, outputs) in signatures.items()
    }
    builder = saved_model.builder.SavedModelBuilder(str(folder))
    builder.add_meta_graph_and_variables(session, ["serve"], defs)
    builder.save()


@pytest.fixture(scope="session")
def contract_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODELS folder as `genre export` leaves it, with hand-made models."""
    from genre_tf.export.server_config import write_configuration

    folder = tmp_path_factory.mktemp("models")
    write_recommender(folder / "genre_recommender" / "1")
    write_generator(folder / "genre_generator" / "1")
    write_configuration(folder, ["genre_recommender", "genre_generator"])
    return folder


@pytest.fixture(scope="session")
def contract_server(contract_models: Path) -> Iterator[Any]:
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    with EmbeddedServer(contract_models, ServerOptions(grpc_port=0, rest_port=0)) as server:
        yield server


@pytest.fixture(scope="session")
def serving_messages() -> dict[str, Any]:
    """Messages of tensorflow/serving's configuration files; its package has ModelServerConfig alone.

    Sources: servables/tensorflow/session_bundle_config.proto, config/monitoring_config.proto,
    config/ssl_config.proto.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="serving_files.proto", package="files", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    batching = file.message_type.add(name="BatchingParameters")
    for number, name in enumerate(
        ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"), start=1
    ):
        kind = ".google.protobuf.Int64Value"
        batching.field.add(name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=kind, label=1)
    batching.field.add(name="allowed_batch_sizes", number=6, type=kinds.TYPE_INT64, label=3)
    batching.field.add(name="pad_variable_length_inputs", number=7, type=kinds.TYPE_BOOL, label=1)
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=kinds.TYPE_BOOL, label=1)
    prometheus.field.add(name="path", number=2, type=kinds.TYPE_STRING, label=1)
    monitoring = file.message_type.add(name="MonitoringConfig")
    kind = ".files.PrometheusConfig"
    monitoring.field.add(name="prometheus_config", number=1, type=kinds.TYPE_MESSAGE, type_name=kind, label=1)
    ssl = file.message_type.add(name="SSLConfig")
    for number, name in enumerate(("server_key", "server_cert", "custom_ca"), start=1):
        ssl.field.add(name=name, number=number, type=kinds.TYPE_STRING, label=1)
    ssl.field.add(name="client_verify", number=4, type=kinds.TYPE_BOOL, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(wrappers_pb2.DESCRIPTOR.serialized_pb))
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"files.{message.name}") for message in file.message_type]
    return {message.name: message_factory.GetMessageClass(message) for message in found}


class Target:
    """The toy behind batching, and clients that send bytes as they are; for requests that may be bad."""

    def __init__(self, server: Any, channel: grpc.Channel) -> None:
        host, port = server.rest_address.removeprefix("http://").split(":")
        self.address = (host, int(port))
        self.channel = channel

    def raw(self, request: bytes, half_closed: bool = False) -> bytes:
        """What comes back on a connection of its own until the server closes it."""
        with socket.create_connection(self.address, timeout=30) as connection:
            answer = b""
            try:
                connection.sendall(request)
                if half_closed:  # a request that may not be whole: otherwise the server waits for the rest
                    connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
            except (ConnectionResetError, BrokenPipeError):
                pass  # the server refused before it had read all
            return answer

    def post(self, path: bytes, body: bytes) -> tuple[int, bytes]:
        head = b"POST %s HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        answer = self.raw(head % (path, len(body)) + body)
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), content

    def call(self, method: str, request: bytes) -> grpc.StatusCode:
        try:
            self.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")(request, timeout=30)
        except grpc.RpcError as caught:
            error: Any = caught
            return error.code()
        return grpc.StatusCode.OK

    def check_good(self) -> None:
        """A good request still answers."""
        good = (200, {"predictions": [3.5]})
        status, body = self.post(b"/v1/models/toy:predict", b'{"instances": [1.0]}')
        assert (status, json.loads(body)) == good


@pytest.fixture(scope="session")
def target(toy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    models = tmp_path_factory.mktemp("fuzzed")
    shutil.copytree(toy_models / "toy", models / "toy")
    (models / "batching.config").write_text(
        "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8"
    )
    options = ServerOptions(grpc_port=0, rest_port=0, max_request_bytes=1 << 20)
    with EmbeddedServer(models, options) as server, grpc.insecure_channel(server.grpc_address) as channel:
        yield Target(server, channel)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes an empty database in a PostgreSQL server of these tests alone, and gives its URL."""
    initdb = shutil.which("initdb") or next(
        iter(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
    )
    if initdb is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg", reason="pip install 'genre-tf[app]'")
    folder = tmp_path_factory.mktemp("postgres")
    user: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = {"user": "postgres", "group": "postgres"}
        shutil.chown(folder, "postgres", "postgres")
        for parent in folder.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o055)
    data, nowhere = folder / "data", subprocess.DEVNULL
    quiet: dict[str, Any] = {"stdout": nowhere, "stderr": nowhere, "cwd": folder}
    made_by = [initdb, "-D", str(data), "-A", "trust", "-U", "postgres", "-N"]
    subprocess.run(made_by, check=True, **quiet, **user)
    binary = Path(initdb).resolve().with_name("postgres")
    command = [str(binary), "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    process = subprocess.Popen(command, **quiet, **user)
    import psycopg

    made: list[str] = []

    def new() -> str:
        name = f"app{len(made)}"
        ends = time.monotonic() + 60
        while True:
            with suppress(psycopg.OperationalError):
                with psycopg.connect(f"host={folder} user=postgres", autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {name}")
                break
            assert time.monotonic() < ends
            time.sleep(0.1)
        made.append(name)
        return f"postgresql://postgres@/{name}?host={folder}"

    yield new
    process.send_signal(signal.SIGINT)  # it waits for no connection
    process.wait(60)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'app.db'}"
    return request.getfixturevalue("postgres")()
