"""`genre serve` in a process of its own, for programs that ask it and do not import TensorFlow themselves."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from genre_tf.environment import without_preferences
from genre_tf.errors import FailureError

_START_S = 600.0  # enough to load a large model from a slow disk and to warm it up
_STOP_S = 30.0


@dataclass(frozen=True)
class ServerProcess:
    """A running server."""

    address: str  # of gRPC, HOST:PORT
    pid: int


@contextmanager
def server_process(models: Path, arguments: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """Run `genre serve` on free ports of this machine, with further arguments, until the context ends.

    It also ends if this process is killed.
    """
    command = [sys.executable, "-m", "genre_tf.cli.main", "serve", str(models)]
    command += ["--grpc-port", "0", "--rest-port", "0", "--until-stdin-ends", *arguments]
    # A file, because nobody would read a pipe while the server runs, and a full pipe blocks it.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as words:
        process = subprocess.Popen(  # noqa: S603  (our own program)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            env=without_preferences(),
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
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


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
