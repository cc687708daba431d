"""`genre serve` in a process of its own: embedded, and as the parent of TensorFlow Serving."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GENRE = [sys.executable, "-m", "genre_tf.cli.main"]
# Stands for TensorFlow Serving: answers GetModelStatus, writes down how it was called.
FAKE = """#!{python}
import os, sys
open(os.path.join(os.path.dirname(__file__), "called"), "w").write("\\n".join(sys.argv[1:]))
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
open(os.path.join(os.path.dirname(__file__), "level"), "w").write(os.environ.get("TF_CPP_MIN_LOG_LEVEL", ""))
config = open(flags["model_config_file"]).read()
open(os.path.join(os.path.dirname(__file__), "config"), "w").write(config)
from concurrent import futures
import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc
class Service(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, request, context):
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=1, state="AVAILABLE")
        return response
server = grpc.server(futures.ThreadPoolExecutor(2))
model_service_pb2_grpc.add_ModelServiceServicer_to_server(Service(), server)
server.add_insecure_port("127.0.0.1:" + flags["port"])
server.start()
server.wait_for_termination()  # SIGTERM ends it at once
"""


@contextmanager
def serving(
    models: Path, *options: str, path: str = ""
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    environment = {**os.environ, "PATH": path + os.pathsep + os.environ["PATH"]}
    ports = ["--grpc-port", "0", "--rest-port", "0"]
    process = subprocess.Popen(
        [*GENRE, "serve", str(models), *ports, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("ready "), process.communicate(timeout=30)
        yield process, dict(word.split("=", 1) for word in line.split()[1:])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()


def fake_server(folder: Path) -> Path:
    folder.mkdir()
    binary = folder / "tensorflow_model_server"
    binary.write_text(FAKE.format(python=sys.executable))
    binary.chmod(0o755)
    return folder


def ended(process: subprocess.Popen[str]) -> str:
    _, messages = process.communicate(timeout=300)
    return " ".join(messages.split())


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_embedded_server_says_when_it_is_ready_and_ends_when_told(contract_models: Path, told: int) -> None:
    with serving(contract_models, "--embedded") as (process, ready):
        assert ready["genre_recommender"] == "1"
        with urllib.request.urlopen(f"{ready['rest']}/v1/models/genre_recommender", timeout=30) as answer:
            assert b"AVAILABLE" in answer.read()
        with urllib.request.urlopen(f"{ready['rest']}/monitoring/prometheus/metrics", timeout=30) as answer:
            page = answer.read()
            assert b'request_count{model_name="genre_recommender",status="OK"} 1' in page
        started = time.monotonic()
        process.send_signal(told)
        messages = ended(process)
        assert process.returncode == 0
        assert time.monotonic() - started < 10
        assert "for laptops and tests" in messages


def test_embedded_server_looks_at_the_folder_and_batches_unless_told_otherwise(
    contract_models: Path, tmp_path: Path
) -> None:
    shutil.copytree(contract_models / "genre_recommender" / "1", tmp_path / "genre_recommender" / "1")
    (tmp_path / "batching.config").write_text("max_batch_size { value: 1 }")
    options = ("--embedded", "--poll-seconds", "0.05")
    many = json.dumps({"signature_name": "embed_news", "instances": ["a", "b"]}).encode()
    with serving(tmp_path, *options) as (_, ready):
        url = f"{ready['rest']}/v1/models/genre_recommender"
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(f"{url}:predict", many, timeout=30)
        assert b"more than max_batch_size 1" in refused.value.read()
        refused.value.close()
        shutil.copytree(contract_models / "genre_recommender" / "1", tmp_path / "genre_recommender" / ".7")
        (tmp_path / "genre_recommender" / ".7").rename(tmp_path / "genre_recommender" / "7")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with urllib.request.urlopen(url, timeout=30) as answer:
                states = json.load(answer)["model_version_status"]
            if states[0]["version"] == "7" and states[0]["state"] == "AVAILABLE":
                break
            time.sleep(0.05)
        assert (states[0]["version"], states[0]["state"]) == ("7", "AVAILABLE")
    with serving(tmp_path, *options, "--no-batching") as (_, ready):
        url = f"{ready['rest']}/v1/models/genre_recommender:predict"
        with urllib.request.urlopen(url, many, timeout=30) as answer:
            assert len(json.load(answer)["predictions"]) == 2


@pytest.mark.parametrize("level", [None, "1"])
def test_tensorflow_serving_is_run_where_it_is_installed(
    contract_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str | None
) -> None:
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    folder = fake_server(tmp_path / "bin")
    with serving(contract_models, path=str(folder)) as (process, ready):
        assert ready["grpc"].startswith("127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        ended(process)
        assert process.returncode == 0
    assert (folder / "level").read_text() == (level or "")  # the user's, never ours, which is silence
    called = (folder / "called").read_text().splitlines()
    assert f"--batching_parameters_file={contract_models}/batching.config" in called
    assert f"--monitoring_config_file={contract_models}/monitoring.config" in called
    assert "--enable_batching=true" in called
    assert {"--num_load_threads=1", "--max_num_load_retries=1"} <= set(called)
    (threads,) = [int(flag.split("=")[1]) for flag in called if flag.startswith("--grpc_max_threads=")]
    assert threads >= 256
    assert f'base_path: "{contract_models}/genre_generator"' in (folder / "config").read_text()


def test_tensorflow_serving_of_a_copied_folder_sees_a_label_of_the_copy(
    contract_models: Path, tmp_path: Path
) -> None:
    from genre_tf.serving.operations.version_choice import set_label

    models, folder = tmp_path / "copy", tmp_path / "bin"
    shutil.copytree(contract_models, models)
    with serving(models, path=str(fake_server(folder))) as (process, _):
        set_label(models, "genre_recommender", "stable", 1)
        flags = dict(flag[2:].split("=", 1) for flag in (folder / "called").read_text().splitlines())
        followed = Path(flags["model_config_file"])
        deadline = time.monotonic() + 60
        while '"stable"' not in followed.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert '"stable"' in followed.read_text()
        assert f'base_path: "{models}/genre_recommender"' in followed.read_text()
        process.send_signal(signal.SIGTERM)
        ended(process)


def test_an_occupied_port_is_two_lines_and_status_2(contract_models: Path) -> None:
    with socket.socket() as occupier:
        occupier.bind(("127.0.0.1", 0))
        occupier.listen()
        port = str(occupier.getsockname()[1])
        command = [
            *GENRE,
            "serve",
            str(contract_models),
            "--embedded",
            "--grpc-port",
            "0",
            "--rest-port",
            port,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port} (REST): Address already in use; choose" in " ".join(
        done.stderr.split()
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_folder_without_models_is_status_2(tmp_path: Path) -> None:
    command = [*GENRE, "serve", str(tmp_path), "--embedded"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "holds no model" in " ".join(done.stderr.split())
