"""A small stand-in for TensorFlow Serving, in Python: for laptops and tests, not for production."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType

from genre_tf.serving.client.addresses import host_port
from genre_tf.serving.embedded.batching import BatchScheduler
from genre_tf.serving.embedded.grpc_server import GrpcServer
from genre_tf.serving.embedded.in_flight import InFlight
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.model_manager import ModelManager
from genre_tf.serving.embedded.model_poller import ModelPoller
from genre_tf.serving.embedded.rest_api import RestApi
from genre_tf.serving.embedded.rest_server import RestLimits, RestServer
from genre_tf.serving.embedded.version_loader import VersionLoader, load_version
from genre_tf.serving.operations.configuration import BATCHING_NAME, MONITORING_NAME
from genre_tf.serving.operations.model_folders import find_models
from genre_tf.serving.operations.parameter_files import read_batching, read_prometheus_path
from genre_tf.serving.operations.server_arguments import grpc_threads

NOTICE = "embedded server: for laptops and tests; in production run tensorflow_model_server on this folder"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the embedded server listens, and which files it follows."""

    host: str = "127.0.0.1"  # only this machine can connect, unless asked for
    grpc_port: int = 8500  # TensorFlow Serving's default; 0 picks a free one
    rest_port: int = 8501  # TensorFlow Serving's default; 0 picks a free one
    threads: int = 16  # gRPC requests at a time, more with batching; writing a text takes one for seconds
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
        self._metrics = ServerMetrics()
        self._in_flight = InFlight()
        self._manager = ModelManager()
        with ExitStack() as opened:
            opened.callback(self._manager.close)
            scheduler = _scheduler(models, options, self._metrics)
            # The ports first: an occupied one is reported at once, before the models take seconds to load.
            self._rest = self._open_rest(models)
            opened.callback(self._rest.server_close)
            self._grpc = self._open_grpc(scheduler)
            opened.callback(self._grpc.stop)
            load = partial(load_version, metrics=self._metrics, scheduler=scheduler)
            loader = VersionLoader(self._manager, load, say)
            loader.start(folders)
            self._opened: ExitStack | None = opened.pop_all()
        self._grpc.start()
        self._rest.start()
        self._poller = ModelPoller(models, self._manager, loader, say)
        if options.poll_s:
            self._poller.start(options.poll_s)
        self.grpc_address = host_port(options.host, self._grpc.port)
        self.rest_address = f"http://{host_port(options.host, self._rest.server_address[1])}"

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
            self._poller.stop()
            self._grpc.say_not_serving()
            self._in_flight.drain(self._options.grace_s)
            self._rest.stop()

    def _open_rest(self, models: Path) -> RestServer:
        monitoring = models / MONITORING_NAME
        page = read_prometheus_path(monitoring) if monitoring.is_file() else None
        return RestServer(
            RestApi(self._manager, self._metrics, page),
            self._options.host,
            self._options.rest_port,
            RestLimits(body_bytes=self._options.max_request_bytes),
            self._in_flight,
        )

    def _open_grpc(self, scheduler: BatchScheduler | None) -> GrpcServer:
        return GrpcServer(
            self._manager,
            self._metrics,
            self._in_flight,
            host=self._options.host,
            port=self._options.grpc_port,
            threads=_threads(self._options, scheduler),
            # As many as `genre serve` lets TensorFlow Serving hold: what it refuses is refused here too.
            most_calls=grpc_threads(os.cpu_count() or 1, None if scheduler is None else scheduler.parameters),
            max_message_bytes=self._options.max_request_bytes,
        )

    def __enter__(self) -> "EmbeddedServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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


def _scheduler(models: Path, options: ServerOptions, metrics: ServerMetrics) -> BatchScheduler | None:
    file = models / BATCHING_NAME
    if not (options.batching and file.is_file()):
        return None
    return BatchScheduler(read_batching(file), metrics)


def _threads(options: ServerOptions, scheduler: BatchScheduler | None) -> int:
    """TensorFlow Serving's advice for batching: twice the largest batch, as most threads only wait."""
    if scheduler is None:
        return options.threads
    return max(options.threads, min(2 * scheduler.parameters.max_batch_size, 256))


def told_to_stop() -> threading.Event:
    """Return an event that SIGTERM or Ctrl-C sets; a second one ends the process at once."""
    told = threading.Event()

    def tell(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    return told
