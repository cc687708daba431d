"""`genre serve`: TensorFlow Serving or the embedded server; `serving-files`: what deploys the former."""

import gc
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from genre_tf.cli.console import load_tensorflow, print_json, progress, results, say
from genre_tf.cli.options import Json, Models, Port
from genre_tf.errors import InputError
from genre_tf.export.publishing import check_models_path


def serve(
    models: Models,
    host: Annotated[
        str, typer.Option(help="Address to listen on (embedded server; TensorFlow Serving uses all).")
    ] = "127.0.0.1",
    grpc_port: Port = 8500,
    rest_port: Port = 8501,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Use the embedded server in any case.")
    ] = False,
    poll_seconds: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds between checks for new versions (embedded server); 0: never check."
        ),
    ] = 1.0,
    batching: Annotated[
        bool, typer.Option("--batching/--no-batching", help="Batch requests as batching.config says.")
    ] = True,
    until_stdin_ends: Annotated[
        bool,
        typer.Option("--until-stdin-ends", help="End when stdin does: with the program that started it."),
    ] = False,
) -> None:
    """Serve models over gRPC and REST.

    Runs tensorflow_model_server if it is on the PATH, otherwise the embedded server, which is for laptops
    and tests. Prints one line that begins with `ready` once every model answers.

    Example: genre serve models
    """
    from genre_tf.export.models_config import find_models

    check_models_path(models)
    find_models(models)  # report a wrong folder before the slow import of TensorFlow
    if until_stdin_ends:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    binary = None if embedded else shutil.which("tensorflow_model_server")
    if binary is not None:
        from genre_tf.serving.operations.model_server import run_model_server

        progress.print(f"running {binary}, which listens on every address of this machine")
        run_model_server(binary, models, grpc_port, rest_port, _ready, batching=batching, say=say)
        return
    load_tensorflow()
    from genre_tf.serving.embedded.server import NOTICE, EmbeddedServer, ServerOptions

    # Imports are never freed; without this, each full garbage collection walks all of them amid requests.
    gc.collect()
    gc.freeze()
    # After its graph has run, a request waits for other Python threads: by default 5 ms for each.
    sys.setswitchinterval(2e-4)
    progress.print(NOTICE, style="yellow")
    options = ServerOptions(
        host=host, grpc_port=grpc_port, rest_port=rest_port, poll_s=poll_seconds, batching=batching
    )
    stop = threading.Event()

    def receive(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
        stop.set()

    with EmbeddedServer(models, options, say) as server:
        for number in (signal.SIGTERM, signal.SIGINT):  # first, as whoever reads `ready` may end it at once
            signal.signal(number, receive)
        _ready(server.grpc_address, server.rest_address, server.versions)
        stop.wait()
        progress.print("stopping: waiting for running requests")


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _ready(grpc_address: str, rest_address: str, versions: dict[str, list[int]]) -> None:
    served = " ".join(f"{name}={','.join(map(str, numbers))}" for name, numbers in versions.items())
    sys.stdout.write(f"ready grpc={grpc_address} rest={rest_address} {served}\n")
    sys.stdout.flush()


def serving_files(
    models: Models,
    out: Annotated[Path, typer.Argument(help="Folder to write; files of the same names are replaced.")],
    image: Annotated[
        str, typer.Option(help="Name of the image that the Dockerfile builds.")
    ] = "genre-serving",
    serving_version: Annotated[str, typer.Option(help="Version of tensorflow/serving.")] = "2.20.0",
    namespace: Annotated[str, typer.Option(help="Kubernetes namespace.")] = "genre",
    cpus: Annotated[int, typer.Option(min=1, help="Cores of each server.")] = 4,
    memory_gib: Annotated[
        int | None, typer.Option(min=1, help="Memory of each server; default: from the sizes of the models.")
    ] = None,
    min_replicas: Annotated[int, typer.Option(min=1, help="Minimum replicas of each servable.")] = 2,
    max_replicas: Annotated[int, typer.Option(min=1, help="Maximum replicas of each servable.")] = 10,
    gpu: Annotated[bool, typer.Option("--gpu", help="Give each Kubernetes server one GPU.")] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Server's certificate chain (PEM); turns on TLS for gRPC.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key of --tls-cert (PEM).")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Authority that signs client certificates (PEM); makes them required.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the files that deploy TensorFlow Serving: images, containers, manifests, alerts, a dashboard.

    Each setting has its reason in a comment. Nothing is started.

    Example: genre serving-files models deploy
    """
    if (tls_cert is None) != (tls_key is None) or (tls_ca is not None and tls_cert is None):
        raise InputError("give --tls-cert and --tls-key together, and --tls-ca only with both")
    load_tensorflow()
    from genre_tf.serving.operations.serving_files import (
        DeploymentOptions,
        write_serving_files,
        write_ssl_config,
    )

    options = DeploymentOptions(
        image=image,
        serving_version=serving_version,
        namespace=namespace,
        cpus=cpus,
        memory_gib=memory_gib,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        gpu=gpu,
        tls=tls_cert is not None,
    )
    files = write_serving_files(models, out, options)
    if tls_cert is not None and tls_key is not None:
        write_ssl_config(out / "tls" / "ssl.config", tls_key, tls_cert, tls_ca)
        files.append(out / "tls" / "ssl.config")
    if json:
        print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        results.print(str(file))
