"""`genre serve`: TensorFlow Serving on a folder of models, or the embedded server if it is not installed."""

import gc
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from genre_tf.cli.console import load_tensorflow, progress, say
from genre_tf.export.publishing import check_models_path


def serve(
    models: Annotated[Path, typer.Argument(help="Folder that `genre export` wrote.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on (embedded server; TensorFlow Serving uses all).")
    ] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 picks a free one.")] = 8500,
    rest_port: Annotated[int, typer.Option(min=0, max=65535, help="REST port; 0 picks a free one.")] = 8501,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Use the embedded server in any case.")
    ] = False,
    poll_seconds: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds between checks for new versions (embedded server); 0: never check.",
        ),
    ] = 1.0,
    batching: Annotated[
        bool, typer.Option("--batching/--no-batching", help="Batch requests as batching.config says.")
    ] = True,
) -> None:
    """Serve models over gRPC and REST.

    Runs tensorflow_model_server if it is on the PATH, otherwise the embedded server, which is for laptops
    and tests. Prints one line that begins with `ready` once every model answers.

    Example: genre serve models
    """
    from genre_tf.serving.operations.models_config import find_models

    check_models_path(models)
    find_models(models)  # report a wrong folder before the slow import of TensorFlow
    binary = None if embedded else shutil.which("tensorflow_model_server")
    if binary is None:
        _serve_embedded(models, host, grpc_port, rest_port, poll_seconds, batching)
        return
    from genre_tf.serving.operations.model_server import run_model_server

    progress.print(f"running {binary}, which listens on every address of this machine")
    run_model_server(
        binary,
        models,
        grpc_port,
        rest_port,
        _ready,
        batching=batching,
        say=say,
    )


def _serve_embedded(
    models: Path, host: str, grpc_port: int, rest_port: int, poll_s: float, batching: bool
) -> None:
    load_tensorflow()
    from genre_tf.serving.embedded.server import NOTICE, EmbeddedServer, ServerOptions

    # Imports are never freed; without this, each full garbage collection walks all of them amid requests.
    gc.collect()
    gc.freeze()
    # After its graph has run, a request waits for other Python threads: by default 5 ms for each.
    sys.setswitchinterval(2e-4)
    progress.print(NOTICE, style="yellow")
    options = ServerOptions(
        host=host, grpc_port=grpc_port, rest_port=rest_port, poll_s=poll_s, batching=batching
    )
    with EmbeddedServer(models, options, say) as server:
        stop = _stop_signal()  # first, as whoever reads `ready` may end the server at once
        _ready(server.grpc_address, server.rest_address, server.versions)
        stop.wait()
        progress.print("stopping: waiting for running requests")


def _stop_signal() -> threading.Event:
    """An event that SIGTERM or Ctrl-C sets; a second one ends the process at once."""
    stop = threading.Event()

    def receive(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, receive)
    return stop


def _ready(grpc_address: str, rest_address: str, versions: dict[str, list[int]]) -> None:
    served = " ".join(f"{name}={','.join(map(str, numbers))}" for name, numbers in versions.items())
    sys.stdout.write(f"ready grpc={grpc_address} rest={rest_address} {served}\n")
    sys.stdout.flush()
