"""TensorFlow Serving in a process of its own, and which versions a server serves."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType

import grpc
from google.protobuf import text_format

from genre_tf.environment import without_preferences
from genre_tf.errors import FailureError, InputError
from genre_tf.export.models_config import (
    CONFIG_NAME,
    base_folder,
    find_models,
    served_config,
    write_atomically,
)
from genre_tf.export.server_config import BATCHING_NAME, MONITORING_NAME, read_batching
from genre_tf.serving.client.channels import open_channel
from genre_tf.serving.operations.serving_files import server_arguments

BINARY = "tensorflow_model_server"
_START_S = 600.0  # enough to load a large model from a slow disk and to warm it up
_POLL_S = 0.2
_ANSWER_S = 5  # for one status request: a server that loads a model on all cores answers late


def run_model_server(
    binary: str,
    models: Path,
    grpc_port: int,
    rest_port: int,
    ready: Callable[[str, str, dict[str, list[int]]], None],
    *,
    batching: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Run TensorFlow Serving until it ends; SIGTERM and Ctrl-C are passed on to it.

    A port of 0 picks a free one. `ready` is called once all models answer, with the gRPC address, the REST
    address and the versions of each model; `say`, with a line for each change of `models.config` that cannot
    be followed.
    """
    folders = find_models(models)
    ports = [_free_port(grpc_port, "--grpc-port"), _free_port(rest_port, "--rest-port")]
    with tempfile.TemporaryDirectory() as scratch:
        config = LocalConfig(models, Path(scratch) / CONFIG_NAME, say)
        process = subprocess.Popen(  # noqa: S603  (a list, no shell)
            command(binary, models, config.file, *ports, with_batching=batching),
            env=without_preferences(),  # our log level would silence it
        )
        received: list[int] = []

        def pass_on(number: int, frame: FrameType | None) -> None:
            received.append(number)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, pass_on)
        addresses = f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        with open_channel(addresses[0]) as channel:

            def answers(name: str) -> bool:
                return process.poll() is not None or bool(available_versions(channel, name))

            loaded = [wait_until(partial(answers, folder.name), _START_S) for folder in folders]
        if all(loaded) and process.poll() is None:
            ready(*addresses, {folder.name: list(folder.versions) for folder in folders})
        while process.poll() is None:  # wakes each second to handle signals that another thread received
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1.0)
            config.follow()
    if process.returncode and not received:
        raise FailureError(f"{BINARY} ended with exit status {process.returncode}: see its messages above")


def command(
    binary: str, models: Path, config: Path, grpc_port: int, rest_port: int, *, with_batching: bool = True
) -> list[str]:
    """The command line of TensorFlow Serving for a MODELS folder, with the configuration files in it."""
    batching, monitoring = models / BATCHING_NAME, models / MONITORING_NAME
    batched = with_batching and batching.is_file()
    arguments = server_arguments(
        str(config),
        cpus=os.cpu_count() or 1,
        batching_file=str(batching) if batched else None,
        batching=read_batching(batching) if batched else None,
        monitoring_file=str(monitoring) if monitoring.is_file() else None,
        grpc_port=grpc_port,
        rest_port=rest_port,
    )
    return [binary, *(argument.flag for argument in arguments)]


class LocalConfig:
    """A copy of `models.config` with paths that are valid here, which follows the edits of the original.

    In a copy of a MODELS folder the paths in `models.config` are those of the original. Without that file all
    versions of the folder are served.
    """

    def __init__(self, models: Path, file: Path, say: Callable[[str], None]) -> None:
        self.file = file
        self._models, self._say = models, say
        self._content = self._fault = ""
        self._write()

    def follow(self) -> None:
        """Write the copy again if `models.config` has changed; keep it, and say why, if that is invalid."""
        before, self._fault = self._fault, ""
        try:
            self._write()
        except (InputError, OSError) as error:
            self._fault = str(error)
            if self._fault != before:
                self._say(f"the server keeps its models, versions and labels: {error}")

    def _write(self) -> None:
        config = served_config(self._models)
        for entry in config.model_config_list.config:
            entry.base_path = str(base_folder(self._models, entry).resolve())
        content = text_format.MessageToString(config)
        if content != self._content:
            write_atomically(self.file, content)
            self._content = content


def _free_port(port: int, option: str) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"cannot listen on port {port}: {reason}; choose another with {option}, or 0 for a free one"
            ) from error
        return int(probe.getsockname()[1])


def available_versions(channel: grpc.Channel, name: str) -> set[int]:
    """Versions of a model that answer; empty if the server cannot be reached."""
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    try:
        answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=_ANSWER_S)
    except grpc.RpcError:
        return set()
    return {state.version for state in answer.model_version_status if state.state == state.AVAILABLE}


def answering_version(channel: grpc.Channel, name: str, label: str = "") -> int | None:
    """The version that answers a request with this label, or without one; None if there is no answer."""
    from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

    # GetModelStatus ignores labels; this is the cheapest request that finds its version as a Predict does.
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = name
    if label:
        request.model_spec.version_label = label
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    try:
        return int(stub.GetModelMetadata(request, timeout=_ANSWER_S).model_spec.version.value)
    except grpc.RpcError:
        return None


def wait_until(condition: Callable[[], bool], longest_s: float) -> bool:
    """Poll a condition; False if it does not hold within `longest_s` seconds."""
    deadline = time.monotonic() + longest_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def wait_until_served(
    address: str,
    name: str,
    longest_s: float,
    *,
    version: int | None = None,
    answers: Mapping[str, int | None] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> None:
    """Wait until a server has loaded a version, then until requests get what `models.config` chooses.

    Each may take `longest_s` seconds. `answers` gives for labels, or "" for requests without one, the
    version, or None if the label is removed.
    """
    expected = answers or {}
    with open_channel(address, credentials) as channel:

        def loaded() -> set[int]:
            return available_versions(channel, name)

        def answered() -> dict[str, int | None]:
            return {label: answering_version(channel, name, label) for label in expected}

        if version is not None and not wait_until(lambda: version in loaded(), longest_s):
            has = ", ".join(map(str, sorted(loaded()))) or "none"
            raise FailureError(
                f"{address} has not loaded version {version} of {name} after {longest_s:.0f} s (it has: "
                f"{has}): check that it runs with --model_config_file_poll_wait_seconds, and read its log"
            )
        # A label that is removed gets no answer, but neither does any request to a server that is down.
        if expected and not wait_until(lambda: answered() == expected and bool(loaded()), longest_s):
            got = "; ".join(
                f"{f'label {label}' if label else 'no label'}: {found or 'no answer'}, not "
                f"{expected[label] or 'removed'}"
                for label, found in answered().items()
            )
            raise FailureError(
                f"after {longest_s:.0f} s {address} does not answer for {name} as models.config says "
                f"({got}): check that it reads this file, and read its log"
            )
