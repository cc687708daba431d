"""A small stand-in for TensorFlow Serving, in Python: for laptops and tests, not for production."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genre_tf.export.models_config import find_models
from genre_tf.export.server_config import (
    BATCHING_NAME,
    MONITORING_NAME,
    read_batching,
    read_prometheus_path,
)
from genre_tf.serving.client.channels import host_port
from genre_tf.serving.embedded.grpc_server import GrpcServer
from genre_tf.serving.embedded.manager import ModelManager, VersionLoader, load_version
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.rest import RestLimits, RestServer
from genre_tf.serving.embedded.servable import BatchScheduler
from genre_tf.serving.operations.serving_files import grpc_threads

NOTICE = "embedded server: for laptops and tests; in production run tensorflow_model_server on this folder"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the embedded server listens, and which files it follows."""

    host: str = "127.0.0.1"  # only this machine can connect, unless asked for
    grpc_port: int = 8500  # TensorFlow Serving's default; 0 picks a free one
    rest_port: int = 8501  # TensorFlow Serving's default; 0 picks a free one
    threads: int = 16  # requests of each protocol at a time, more with batching; a text takes seconds
    max_request_bytes: int = 64 << 20  # far above any real request, far below a laptop's memory
    poll_s: float = 1.0  # seconds between checks of MODELS, as in TensorFlow Serving; 0: never
    batching: bool = True  # by MODELS/batching.config, if it exists
    grace_s: float = 10.0  # seconds that running requests get when the server is stopped


class EmbeddedServer:
    """gRPC and REST over the models of one folder; a context manager that serves while it is open.

    Args:
        models: folder that `genre export` wrote, or any folder of NAME/VERSION SavedModels.
        options: addresses and limits.
        say: called with a line for each version that is loaded, or left out and why.

    Raises:
        InputError: there is no usable model, a configuration file is invalid, or a port cannot be opened.
    """

    def __init__(
        self, models: Path, options: ServerOptions, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._options = options
        folders = find_models(models)
        self._manager = ModelManager()
        self._metrics = ServerMetrics()
        batched = options.batching and (models / BATCHING_NAME).is_file()
        parameters = read_batching(models / BATCHING_NAME) if batched else None
        scheduler = BatchScheduler(parameters, self._metrics) if parameters else None
        # TensorFlow Serving's advice for batching: twice the largest batch, as most threads only wait.
        waiting = min(2 * parameters.max_batch_size, 256) if parameters else 0
        threads = max(options.threads, waiting)
        monitoring = models / MONITORING_NAME
        parts = (self._manager, self._metrics)
        with ExitStack() as opened:
            opened.callback(self._manager.close)
            # The ports first: an occupied one is reported at once, before the models take seconds to load.
            self._rest = RestServer(
                *parts,
                host=options.host,
                port=options.rest_port,
                threads=threads,
                metrics_path=read_prometheus_path(monitoring) if monitoring.is_file() else None,
                limits=RestLimits(body_bytes=options.max_request_bytes),
            )
            opened.callback(self._rest.stop)
            self._grpc = GrpcServer(
                *parts,
                host=options.host,
                port=options.grpc_port,
                threads=threads,
                # As many as `genre serve` lets TensorFlow Serving hold: what it refuses is refused here too.
                most_calls=grpc_threads(os.cpu_count() or 1, parameters),
                max_message_bytes=options.max_request_bytes,
            )
            opened.callback(self._grpc.stop)
            load = partial(load_version, metrics=self._metrics, scheduler=scheduler)
            self._loader = VersionLoader(models, self._manager, load, say)
            self._loader.start(folders, options.poll_s)
            self._opened: ExitStack | None = opened.pop_all()
        self._grpc.start()
        self._rest.start()
        self.grpc_address = host_port(options.host, self._grpc.port)
        self.rest_address = f"http://{host_port(options.host, self._rest.port)}"

    @property
    def versions(self) -> dict[str, list[int]]:
        """Model name -> the versions that answer, newest first."""
        return self._manager.versions

    def stop(self) -> None:
        """Report NOT_SERVING, refuse new requests, wait for running ones, then free the models."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        with opened:
            self._loader.stop()
            self._grpc.say_not_serving()
            self._manager.drain(self._options.grace_s)

    def __enter__(self) -> "EmbeddedServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


@contextmanager
def serve(folder: Path | str, *, batching: bool = True) -> Iterator[str]:
    """Serve a MODELS folder from this process, on free ports of this machine, while the context is open.

    Args:
        folder: the folder that `genre export` or `genre_tf.export.write_models` wrote.
        batching: run requests together as `batching.config` says, if the folder has one.

    Yields:
        The gRPC address, for `Client`.

    Raises:
        InputError: there is no usable model, or a configuration file is invalid.

    Example:
        >>> from genre_tf.serving import Client, serve
        >>> with serve(models) as address, Client(address) as client:
        ...     client.recommend([["N1"]])[0][0]
        Recommendation(news_id='N2', title='Team wins the cup', score=0.699999988079071)
    """
    options = ServerOptions(grpc_port=0, rest_port=0, batching=batching)
    with EmbeddedServer(Path(folder), options) as server:
        yield server.grpc_address
