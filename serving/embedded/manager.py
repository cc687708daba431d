"""The versions that a server answers with: loaded and unloaded by a MODELS folder, found for requests."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from genre_tf.contract import ASSETS_FOLDER, MOST_WARMUP_RECORDS, WARMUP_FILE
from genre_tf.errors import InputError
from genre_tf.export.models_config import CONFIG_NAME, ModelFolder, scan_models, version_fault
from genre_tf.serving.embedded.errors import ServingError, invalid_argument, not_found
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.servable import BatchScheduler, Servable, answer_predict, answer_regress

_log = logging.getLogger(__name__)
_NOT_FOUND: int = grpc.StatusCode.NOT_FOUND.value[0]
_UNKNOWN: int = grpc.StatusCode.UNKNOWN.value[0]
# A server that runs for months sees many versions come and go; TensorFlow Serving remembers all of them.
_REMEMBERED_ENDS = 100


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a request asks for: a model, and optionally a version or a label."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class VersionState:
    """The state of one version: `state` as in ModelVersionStatus; error code 0: no error."""

    version: int
    state: str
    error_code: int = 0
    error_message: str = ""


@dataclass(slots=True)
class _Model:
    live: dict[int, Servable] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    states: dict[int, VersionState] = field(default_factory=dict)


class ModelManager:
    """Finds the version that a request asks for, and keeps it loaded until no request uses it.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self._used: Counter[Servable] = Counter()  # requests that run
        self._changed = threading.Condition()  # its lock may be taken again by the thread that holds it
        self._draining = self._closed = False

    @property
    def versions(self) -> dict[str, list[int]]:
        """Model name -> the versions that answer, newest first; models without any are left out."""
        with self._changed:
            return {
                name: sorted(model.live, reverse=True) for name, model in self._models.items() if model.live
            }

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Servable]:
        """The servable that `spec` asks for; it stays loaded while the context is open."""
        with self._changed:
            if self._draining:
                raise ServingError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
            if not spec.name:
                raise invalid_argument("the request does not name a model")
            model, version = self._models.get(spec.name, _Model()), spec.version
            if spec.label is not None:
                version = model.labels.get(spec.label)
                if version is None:
                    raise invalid_argument(f"model {spec.name!r} has no version labelled {spec.label!r}")
            if version is None:
                version = max(model.live, default=None)
            if version not in model.live:
                raise not_found(f"model {spec.name!r} is not served{_chosen(spec)}")
            servable = model.live[version]
            self._used[servable] += 1
        try:
            yield servable
        finally:
            with self._changed:
                self._used[servable] -= 1
                if not self._used[servable]:
                    del self._used[servable]
                    self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests from now on, wait for running ones, and return whether all have ended."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._used, timeout_s)

    def states(self, spec: ModelSpec) -> list[VersionState]:
        """The states of all versions, newest first, or of the version that `spec` has. Ignores labels."""
        with self._changed:
            states = dict(self._models.get(spec.name, _Model()).states)
        if spec.version is not None:
            states = {version: state for version, state in states.items() if version == spec.version}
        if not states:
            raise not_found(f"no version of model {spec.name!r} is known{_chosen(spec)}")
        return [states[version] for version in sorted(states, reverse=True)]

    def labels(self, name: str) -> dict[str, int]:
        """The labels of a model's versions."""
        with self._changed:
            return dict(self._models.get(name, _Model()).labels)

    def set_labels(self, name: str, labels: Mapping[str, int]) -> None:
        """Replace all labels of a model."""
        with self._changed:
            self._models.setdefault(name, _Model()).labels = dict(labels)

    def set_state(self, name: str, state: VersionState) -> None:
        """Set the state of a version; of those that have ended the newest are remembered."""
        with self._changed:
            states = self._models.setdefault(name, _Model()).states
            states[state.version] = state
            ended = sorted(version for version, known in states.items() if known.state == "END")
            for version in ended[:-_REMEMBERED_ENDS]:
                del states[version]

    def add(self, servable: Servable) -> None:
        """Let a version answer requests from now on."""
        with self._changed:
            if not self._closed:
                self.set_state(servable.name, VersionState(servable.version, "AVAILABLE"))
                self._models[servable.name].live[servable.version] = servable
                return
        servable.close()

    def remove(self, name: str, version: int) -> None:
        """Let no new request use a version; a separate thread frees it once no request uses it."""
        with self._changed:
            servable = self._models[name].live.pop(version)
            self.set_state(name, VersionState(version, "UNLOADING"))

        def free() -> None:
            with self._changed:
                self._changed.wait_for(lambda: servable not in self._used)
            servable.close()
            self.set_state(name, VersionState(version, "END"))

        threading.Thread(target=free, name=f"unload {name}", daemon=True).start()

    def is_unloading(self, name: str, version: int) -> bool:
        """Whether a version no longer answers but is not freed yet."""
        with self._changed:
            state = self._models.get(name, _Model()).states.get(version)
        return state is not None and state.state == "UNLOADING"

    def close(self) -> None:
        """Free every session, even if requests still use it."""
        with self._changed:
            servables = [servable for model in self._models.values() for servable in model.live.values()]
            self._models.clear()
            self._closed = True
        for servable in servables:
            servable.close()


def _chosen(spec: ModelSpec) -> str:
    return "" if spec.version is None else f" in version {spec.version}"


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
        self._failed: dict[tuple[str, int], list[tuple[str, int, int]]] = {}  # versions that did not load
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
            number = getattr(error, "error_code", 0) or _UNKNOWN
            self._manager.set_state(name, VersionState(version, "END", number, text))
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


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and modification time of every file, to detect changes."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:  # deleted meanwhile
            continue
        found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return found
