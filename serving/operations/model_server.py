"""Runs TensorFlow Serving (`tensorflow_model_server`) on a MODELS folder, if it is installed."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from google.protobuf import text_format

from genre_tf.environment import without_preferences
from genre_tf.errors import FailureError, InputError
from genre_tf.serving.client.channels import open_channel
from genre_tf.serving.operations.configuration import BATCHING_NAME, MONITORING_NAME
from genre_tf.serving.operations.model_folders import (
    CONFIG_NAME,
    base_folder,
    find_models,
    read_models_config,
)
from genre_tf.serving.operations.model_status import available_versions, wait_until
from genre_tf.serving.operations.models_config import write_atomically
from genre_tf.serving.operations.parameter_files import read_batching
from genre_tf.serving.operations.server_arguments import Batching, server_arguments

BINARY = "tensorflow_model_server"
_START_S = 600  # enough to load a large model from a slow disk


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

    In a copy of a MODELS folder the paths in `models.config` are those of the original: the server then reads
    a corrected file, which is written again after each change of `models.config`.

    Args:
        binary: path of the executable.
        models: the folder to serve.
        grpc_port: gRPC port; 0 picks a free one.
        rest_port: REST port; 0 picks a free one.
        ready: called once all models answer, with the gRPC address, the REST address and the versions of each
            model.
        batching: batch requests as `batching.config` says, if there is one.
        say: called with a line for each change of `models.config` that cannot be followed.

    Raises:
        InputError: there is no usable model, a configuration file is invalid, or a port is occupied.
        FailureError: the server ended by itself, with an error status.
    """
    folders = find_models(models)
    ports = [free_port(grpc_port, "--grpc-port"), free_port(rest_port, "--rest-port")]
    with tempfile.TemporaryDirectory() as scratch:
        config, follow = models / CONFIG_NAME, lambda: None
        if not _holds_here(models):
            config = Path(scratch) / CONFIG_NAME
            follow = CorrectedConfig(models, config, say).follow
        process = subprocess.Popen(  # noqa: S603  (a list, no shell)
            command(binary, models, config, *ports, with_batching=batching),
            env=without_preferences(),  # our log level would silence it
        )
        told = _pass_signals_on(process)
        addresses = f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        if _wait_until_ready(process, addresses[0], [folder.name for folder in folders]):
            ready(*addresses, {folder.name: list(folder.versions) for folder in folders})
        status = _ended(process, follow)
    if status and not told:
        raise FailureError(f"{BINARY} ended with exit status {status}: see its messages above")


def command(
    binary: str, models: Path, config: Path, grpc_port: int, rest_port: int, *, with_batching: bool = True
) -> list[str]:
    """The command line of TensorFlow Serving for a MODELS folder, with the configuration files in it."""
    batching, monitoring = models / BATCHING_NAME, models / MONITORING_NAME
    arguments = server_arguments(
        str(config),
        cpus=os.cpu_count() or 1,
        batching=Batching(file=str(batching), parameters=read_batching(batching))
        if with_batching and batching.is_file()
        else None,
        monitoring_file=str(monitoring) if monitoring.is_file() else None,
        grpc_port=grpc_port,
        rest_port=rest_port,
    )
    return [binary, *(argument.flag for argument in arguments)]


class CorrectedConfig:
    """A copy of `models.config` with paths that are valid here, which follows the edits of the original.

    Args:
        models: the MODELS folder.
        file: the copy, for the server.
        say: called with a line if the original can no longer be followed.

    Raises:
        InputError: `models.config` is invalid.
    """

    def __init__(self, models: Path, file: Path, say: Callable[[str], None]) -> None:
        self._models, self._file, self._say = models, file, say
        self._fault = ""
        self._content = local_config(models)
        write_atomically(file, self._content)

    def follow(self) -> None:
        """Write the copy again if `models.config` has changed; keep it, and say why, if that is invalid."""
        before, self._fault = self._fault, ""
        try:
            content = local_config(self._models)
            if content != self._content:
                write_atomically(self._file, content)
                self._content = content
        except (InputError, OSError) as error:
            self._fault = str(error)
            if self._fault != before:
                self._say(f"the server keeps its models, versions and labels: {error}")


def local_config(models: Path) -> str:
    """`models.config` with paths that are valid here, even if the folder was moved or written elsewhere."""
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    if (models / CONFIG_NAME).is_file():
        config = read_models_config(models / CONFIG_NAME)
        for entry in config.model_config_list.config:
            entry.base_path = str(base_folder(models, entry.name, entry.base_path).resolve())
        return text_format.MessageToString(config)
    for folder in find_models(models):
        entry = config.model_config_list.config.add(name=folder.name, model_platform="tensorflow")
        entry.base_path = str((models / folder.name).resolve())
        entry.model_version_policy.all.SetInParent()
    return text_format.MessageToString(config)


def _holds_here(models: Path) -> bool:
    """Whether all paths in `models.config` are valid here, so that the server can read that file itself."""
    config = models / CONFIG_NAME
    if not config.is_file():
        return False
    entries = read_models_config(config).model_config_list.config
    return bool(entries) and all(
        Path(entry.base_path).resolve() == base_folder(models, entry.name, entry.base_path).resolve()
        for entry in entries
    )


def free_port(port: int, option: str) -> int:
    """`port`, or a free port if it is 0.

    Raises:
        InputError: the port cannot be opened.
    """
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


def _pass_signals_on(process: "subprocess.Popen[bytes]") -> list[int]:
    told: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    return told


def _ended(process: "subprocess.Popen[bytes]", each_second: Callable[[], None]) -> int:
    """Wait for the end of the process; wake each second to handle signals that another thread received."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=1.0)
        each_second()


def _wait_until_ready(process: "subprocess.Popen[bytes]", address: str, names: list[str]) -> bool:
    with open_channel(address) as channel:
        for name in names:
            wait_until(
                lambda name=name: process.poll() is not None or bool(available_versions(channel, name)),  # type: ignore[misc]
                _START_S,
            )
            if process.poll() is not None or not available_versions(channel, name):
                return False
    return True
