"""Servers in processes of their own: TensorFlow Serving, if it is installed, and `genre serve` for demos."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from google.protobuf import text_format

from genre_tf.environment import without_preferences
from genre_tf.errors import FailureError, InputError
from genre_tf.serving.client.channels import open_channel
from genre_tf.serving.operations.configuration import BATCHING_NAME, MONITORING_NAME, read_batching
from genre_tf.serving.operations.deployment import Batching, server_arguments
from genre_tf.serving.operations.model_folders import find_models
from genre_tf.serving.operations.model_status import available_versions, wait_until
from genre_tf.serving.operations.models_config import (
    CONFIG_NAME,
    base_folder,
    read_models_config,
    write_atomically,
)

BINARY = "tensorflow_model_server"
_START_S = 600.0  # enough to load a large model from a slow disk and to warm it up
_STOP_S = 30.0


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
    ports = [_free_port(grpc_port, "--grpc-port"), _free_port(rest_port, "--rest-port")]
    with tempfile.TemporaryDirectory() as scratch:
        config = LocalConfig(models, Path(scratch) / CONFIG_NAME, say)
        process = subprocess.Popen(  # noqa: S603  (a list, no shell)
            command(binary, models, config.file, *ports, with_batching=batching),
            env=without_preferences(),  # our log level would silence it
        )
        received = _pass_signals_on(process)
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


class LocalConfig:
    """A copy of `models.config` with paths that are valid here, which follows the edits of the original.

    In a copy of a MODELS folder the paths in `models.config` are those of the original. Without that file all
    versions of the folder are served.
    """

    def __init__(self, models: Path, file: Path, say: Callable[[str], None]) -> None:
        self.file = file
        self._models, self._say = models, say
        self._fault = ""
        self._content = self._read()
        write_atomically(file, self._content)

    def follow(self) -> None:
        """Write the copy again if `models.config` has changed; keep it, and say why, if that is invalid."""
        before, self._fault = self._fault, ""
        try:
            content = self._read()
            if content != self._content:
                write_atomically(self.file, content)
                self._content = content
        except (InputError, OSError) as error:
            self._fault = str(error)
            if self._fault != before:
                self._say(f"the server keeps its models, versions and labels: {error}")

    def _read(self) -> str:
        from tensorflow_serving.config import model_server_config_pb2

        if (self._models / CONFIG_NAME).is_file():
            config = read_models_config(self._models / CONFIG_NAME)
        else:
            config = model_server_config_pb2.ModelServerConfig()
            for folder in find_models(self._models):
                entry = config.model_config_list.config.add(name=folder.name, model_platform="tensorflow")
                entry.base_path = str(self._models / folder.name)
                entry.model_version_policy.all.SetInParent()
        for entry in config.model_config_list.config:
            entry.base_path = str(base_folder(self._models, entry.name, entry.base_path).resolve())
        return text_format.MessageToString(config)


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


def _pass_signals_on(process: "subprocess.Popen[bytes]") -> list[int]:
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    return received


@dataclass(frozen=True)
class ServerProcess:
    """A running server."""

    address: str  # of gRPC, HOST:PORT
    pid: int


@contextmanager
def server_process(models: Path, arguments: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """Run a server on free ports of this machine until the context ends.

    Args:
        models: folder to serve.
        arguments: further arguments of `genre serve`, such as `--embedded`.

    Raises:
        FailureError: the server did not start; the message quotes the end of its output.
    """
    command = [sys.executable, "-m", "genre_tf.cli.main", "serve", str(models)]
    command += ["--grpc-port", "0", "--rest-port", "0", *arguments]
    # A file, because nobody would read a pipe while the server runs, and a full pipe blocks it.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = subprocess.Popen(  # noqa: S603  (our own program)
            command, stdout=subprocess.PIPE, stderr=words, text=True, env=without_preferences()
        )
        try:
            yield ServerProcess(_ready_address(process, words), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _ready_address(process: "subprocess.Popen[str]", words: IO[str], longest_s: float = _START_S) -> str:
    # Reading a line waits as long as the process lives; the timer ends a server that is not ready in time.
    too_long = threading.Timer(longest_s, process.kill)
    too_long.start()
    try:
        for line in process.stdout or ():
            if line.startswith("ready "):
                return dict(part.split("=", 1) for part in line.split()[1:])["grpc"]
    finally:
        too_long.cancel()
    words.seek(0)
    raise FailureError(f"the server did not start: {words.read()[-2000:].strip()}")
