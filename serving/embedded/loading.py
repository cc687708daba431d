"""Load and unload versions until they match a MODELS folder, now and whenever it changes."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from genre_tf.contract import ASSETS_FOLDER, MOST_WARMUP_RECORDS, WARMUP_FILE
from genre_tf.errors import InputError
from genre_tf.serving.embedded.batching import BatchScheduler
from genre_tf.serving.embedded.errors import ServingError, invalid_argument
from genre_tf.serving.embedded.manager import ModelManager, ModelSpec, VersionState
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.servable import Servable, answer_predict, answer_regress
from genre_tf.serving.operations.models_config import CONFIG_NAME, ModelFolder, scan_models, version_fault

_log = logging.getLogger(__name__)
_NOT_FOUND: int = grpc.StatusCode.NOT_FOUND.value[0]
_UNKNOWN: int = grpc.StatusCode.UNKNOWN.value[0]

Files = list[tuple[str, int, int]]


class VersionLoader:
    """Makes the served versions those that a MODELS folder asks for, at the start and at each `poll`.

    Serving continues: live versions stay until a wanted version is live, and a version that fails to load
    changes nothing. It is tried again only after its files have changed. `say` is called with a line for each
    change and each fault, once as long as the fault lasts.
    """

    def __init__(
        self,
        models: Path,
        manager: ModelManager,
        open_version: Callable[[str, int, Path], Servable],
        say: Callable[[str], None],
    ) -> None:
        self._models = models
        self._manager = manager
        self._open = open_version
        self._say = say
        self._configured = (models / CONFIG_NAME).is_file()
        self._said: dict[object, str] = {}  # what a fault is about -> the line that reported it
        self._failed: dict[tuple[str, int], Files] = {}  # versions that did not load
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, folders: Collection[ModelFolder], poll_s: float = 0.0) -> None:
        """Load the versions that a server starts with, then poll in a separate thread; 0 seconds: never.

        Raises:
            InputError: no version of a model loads.
        """
        self._follow(folders)
        for folder in folders:
            if folder.name not in self._manager.versions:
                states = self._manager.states(ModelSpec(folder.name))
                reasons = [state.error_message.splitlines()[0] for state in states if state.error_message]
                reason = reasons[0] if reasons else "no reason given"
                raise InputError(f"no version of model {folder.name} loads ({reason}): export it again")
        if poll_s:
            self._thread = threading.Thread(target=self._run, args=(poll_s,), name="poll", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop polling; wait at most one second for a running load."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def poll(self) -> None:
        """Check the folder once. If it cannot be followed, report why and keep the served versions."""
        try:
            config = (self._models / CONFIG_NAME).is_file()
            if self._configured and not config:
                raise InputError(f"{self._models / CONFIG_NAME} is gone: the served versions are kept")
            # A served version is in memory: like TensorFlow Serving, do not check its files again.
            folders = scan_models(
                self._models,
                lambda name, number, path: None if number in self._live(name) else version_fault(path),
            )
        except (InputError, OSError) as error:  # OSError: a folder vanished during the check
            self._say_once(self._models, f"cannot follow the models folder: {error}")
            return
        self._configured = config
        self._said.pop(self._models, None)
        self._follow(folders)
        if config:  # a model that was removed from it is unloaded, as in TensorFlow Serving
            for name in sorted(set(self._manager.versions) - {folder.name for folder in folders}):
                self._manager.set_labels(name, {})
                for version in sorted(self._manager.versions[name]):
                    self._unload(name, version, "its model is no longer configured")

    def _run(self, poll_s: float) -> None:
        while not self._stopping.wait(poll_s):
            try:
                self.poll()
            except Exception:
                _log.exception("checking %s failed", self._models)

    def _follow(self, folders: Collection[ModelFolder]) -> None:
        for folder in folders:
            for path, reason in folder.left_out.items():
                self._say_once(path, f"left out {path}: {reason}")
                if path.is_dir():
                    state = VersionState(int(path.name), "END", _NOT_FOUND, reason)
                    self._manager.set_state(folder.name, state)
            new = [
                version
                for version in sorted(folder.versions, reverse=True)
                if version not in self._live(folder.name)
                and not self._manager.is_unloading(folder.name, version)
                and self._failed.get((folder.name, version)) != _files(folder.versions[version])
            ]
            for version in new:
                self._manager.set_state(folder.name, VersionState(version, "START"))
            self._replace(folder, loading=new)
            while new:
                version = new.pop(0)
                self._load(folder.name, version, folder.versions[version])
                self._replace(folder, loading=new)

    def _load(self, name: str, version: int, path: Path) -> None:
        self._manager.set_state(name, VersionState(version, "LOADING"))
        files = _files(path)  # before the load, so that a later change of the files causes another load
        try:
            servable = self._open(name, version, path)
        except Exception as error:  # TensorFlow raises half a dozen unrelated types here
            self._failed[name, version] = files
            text = str(error) or type(error).__name__
            number = (
                error.code.value[0] if isinstance(error, ServingError) else getattr(error, "error_code", 0)
            )
            self._manager.set_state(name, VersionState(version, "END", number or _UNKNOWN, text))
            self._say(f"left out {path}: it does not load ({text.splitlines()[0]})")
            return
        self._failed.pop((name, version), None)
        self._said.pop(path, None)
        self._manager.add(servable)
        self._say(f"loaded {name} version {version} from {path}")

    def _replace(self, folder: ModelFolder, loading: Collection[int]) -> None:
        """Move labels to live versions, and unload versions that are neither wanted nor needed any more."""
        live, before = self._live(folder.name), self._manager.labels(folder.name)
        labels = {}
        for label, version in folder.labels.items():
            if version in live:
                labels[label] = version
                self._said.pop((folder.name, label), None)
                continue
            if before.get(label) in live:
                labels[label] = before[label]
            if version not in loading:
                line = f"label {label} of model {folder.name}: version {version} is not served"
                self._say_once((folder.name, label), line)
        self._manager.set_labels(folder.name, labels)
        unwanted = sorted(set(live) - set(folder.versions))
        if len(unwanted) == len(live):
            unwanted = unwanted[:-1]  # no wanted version is live: keep the newest of the others
        for version in unwanted:
            if not (loading and version in labels.values()):  # until the next version of its label is loaded
                self._unload(folder.name, version, "it was deleted, or the version policy excludes it")

    def _unload(self, name: str, version: int, reason: str) -> None:
        self._manager.remove(name, version)
        self._say(f"unloading {name} version {version}: {reason}")

    def _say_once(self, about: object, line: str) -> None:
        if self._said.get(about) != line:
            self._said[about] = line
            self._say(line)

    def _live(self, name: str) -> list[int]:
        return self._manager.versions.get(name, [])


def load_version(
    name: str,
    version: int,
    folder: Path,
    metrics: ServerMetrics | None = None,
    scheduler: BatchScheduler | None = None,
) -> Servable:
    """Load a version, and answer its warmup requests so that its first real request is not slow.

    As in TensorFlow Serving, warmup that cannot be read or answered is an error.
    """
    metrics = metrics or ServerMetrics()
    started = time.perf_counter()
    try:
        servable = Servable(name, version, folder, metrics, scheduler)
    except BaseException:
        metrics.load_attempts.labels(folder, "fail").inc()
        raise
    loaded = time.perf_counter()
    metrics.load_attempts.labels(folder, "success").inc()
    metrics.load_latency.labels(folder).inc(round((loaded - started) * 1e6))
    file = folder / ASSETS_FOLDER / WARMUP_FILE
    if not file.is_file():
        return servable
    try:
        for count, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator(), start=1):
            if count > MOST_WARMUP_RECORDS:
                raise invalid_argument(f"{file} has more than {MOST_WARMUP_RECORDS} warmup records")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            kind = log.WhichOneof("log_type")
            if kind == "predict_log":
                answer_predict(servable, log.predict_log.request)
            elif kind == "regress_log":
                answer_regress(servable, log.regress_log.request)
            elif kind is not None:  # a record without a request is ignored, as in TensorFlow Serving
                text = f"{file}: a warmup record must be a predict_log or a regress_log; got {kind}"
                raise ServingError(grpc.StatusCode.UNIMPLEMENTED, text)
            metrics.warmup_records.labels(folder, "OK").inc()
    except BaseException as error:
        servable.close()
        if isinstance(error, tf.errors.DataLossError):
            text = f"{file} is not a TFRecord file of warmup requests: {error.message}"
            raise ServingError(grpc.StatusCode.DATA_LOSS, text) from error
        if isinstance(error, DecodeError):
            raise invalid_argument(
                f"{file}: a warmup record is not a PredictionLog: {record[:100]!r}"
            ) from error
        raise
    metrics.warmup_latency.labels(folder, "OK").observe((time.perf_counter() - loaded) * 1e6)
    return servable


def _files(folder: Path) -> Files:
    """Name, size and modification time of every file, to detect changes."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:  # deleted meanwhile
            continue
        found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return found
