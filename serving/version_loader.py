"""Bringing what is served in line with what a MODELS folder offers: load first, then unload.

Follows aspired_versions_manager.cc and availability_preserving_policy.cc of TensorFlow Serving.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

import grpc

from genre_tf.errors import InputError
from genre_tf.serving.batching import BatchScheduler
from genre_tf.serving.metrics import ServerMetrics
from genre_tf.serving.model_folders import ModelFolder
from genre_tf.serving.model_manager import ModelManager, ModelSpec, VersionState
from genre_tf.serving.servable import Servable
from genre_tf.serving.statuses import ServingError
from genre_tf.serving.warmup_replay import replay_warmup

_NOT_FOUND: int = grpc.StatusCode.NOT_FOUND.value[0]
_UNKNOWN: int = grpc.StatusCode.UNKNOWN.value[0]

Fault = str | tuple[tuple[str, int, int], ...]


class VersionLoader:
    """Loads the versions that are wanted, newest first, and unloads those that are not.

    Serving goes on meanwhile: what is live stays so until something wanted is, and a version that fails
    to load leaves everything as it was. One that failed is tried again only once its files have changed.

    Args:
        manager: told of each change.
        open_version: makes a version ready to answer, from its model's name, its number and its folder.
        say: told what is loaded, unloaded, left out and why, each once.
    """

    def __init__(
        self,
        manager: ModelManager,
        open_version: Callable[[str, int, Path], Servable],
        say: Callable[[str], None],
    ) -> None:
        self._manager = manager
        self._open = open_version
        self._say = say
        self._faults: dict[tuple[str, int], Fault] = {}  # what was wrong, or the files that did not load
        self._unmet_labels: set[tuple[str, str, int]] = set()

    def start(self, folders: Collection[ModelFolder]) -> None:
        """Load what a server starts with.

        Raises:
            InputError: a model has no version that loads.
        """
        self.follow(folders)
        served = self._manager.versions
        for folder in folders:
            if folder.name not in served:
                raise InputError(
                    f"no version of model {folder.name} loads ({self._first_error(folder.name)}): "
                    "export it again"
                )

    def follow(self, folders: Collection[ModelFolder], only: bool = False) -> None:
        """Load and unload until what is served is what `folders` ask for.

        Args:
            folders: the models.
            only: whether models that are not among them are unloaded, as TensorFlow Serving does with
                those that have left `models.config`.
        """
        for folder in folders:
            self._follow(folder)
        gone = set(self._manager.versions) - {folder.name for folder in folders} if only else set()
        for name in sorted(gone):
            self._manager.set_labels(name, {})
            for version in sorted(self._manager.versions[name]):
                self._unload(name, version, "its model is no longer configured")

    def _follow(self, folder: ModelFolder) -> None:
        for path, reason in folder.left_out.items():
            self._leave_out(folder.name, int(path.name), path, reason)
        new = [version for version in sorted(folder.versions, reverse=True) if self._is_new(folder, version)]
        for version in new:
            self._manager.set_state(folder.name, VersionState(version, "START"))
        self._set_labels(folder, loading=new)
        self._unload_unwanted(folder, loading=new)
        while new:
            self._load(folder.name, new.pop(0), folder.versions)
            self._set_labels(folder, loading=new)
            self._unload_unwanted(folder, loading=new)

    def _is_new(self, folder: ModelFolder, version: int) -> bool:
        if version in self._live(folder.name) or self._manager.is_unloading(folder.name, version):
            return False
        fault = self._faults.get((folder.name, version))
        return fault is None or fault != _fingerprint(folder.versions[version])

    def _load(self, name: str, version: int, paths: dict[int, Path]) -> None:
        path = paths[version]
        self._manager.set_state(name, VersionState(version, "LOADING"))
        files = _fingerprint(path)  # before the load: what is written meanwhile is worth another one
        try:
            servable = self._open(name, version, path)
        except Exception as error:  # TensorFlow raises half a dozen unrelated types here
            self._faults[name, version] = files
            text = str(error) or type(error).__name__
            self._manager.set_state(name, VersionState(version, "END", _code(error), text))
            self._say(f"left out {path}: it does not load ({text.splitlines()[0]})")
            return
        self._faults.pop((name, version), None)
        self._manager.add(servable)
        self._say(f"loaded {name} version {version} from {path}")

    def _leave_out(self, name: str, version: int, path: Path, reason: str) -> None:
        if self._faults.get((name, version)) == reason:
            return
        self._faults[name, version] = reason
        self._say(f"left out {path}: {reason}")
        if path.is_dir():
            self._manager.set_state(name, VersionState(version, "END", _NOT_FOUND, reason))

    def _unload_unwanted(self, folder: ModelFolder, loading: Collection[int]) -> None:
        live = self._live(folder.name)
        unwanted = sorted(set(live) - set(folder.versions))
        if len(unwanted) == len(live):
            unwanted = unwanted[:-1]  # nothing wanted answers: the newest of the others goes on
        labelled = set(self._manager.labels(folder.name).values()) if loading else set()
        for version in unwanted:
            if version not in labelled:  # until what its label is to mean is there
                self._unload(folder.name, version, "the version policy no longer asks for it, or it is gone")

    def _unload(self, name: str, version: int, reason: str) -> None:
        self._manager.remove(name, version)
        self._say(f"unloading {name} version {version}: {reason}")

    def _set_labels(self, folder: ModelFolder, loading: Collection[int]) -> None:
        live, labels = self._live(folder.name), {}
        before = self._manager.labels(folder.name)
        for label, version in folder.labels.items():
            if version in live:
                labels[label] = version
                self._unmet_labels.discard((folder.name, label, version))
                continue
            if label in before and before[label] in live:
                labels[label] = before[label]
            if version not in loading and (folder.name, label, version) not in self._unmet_labels:
                self._unmet_labels.add((folder.name, label, version))
                self._say(f"label {label} of model {folder.name}: version {version} is not served")
        self._manager.set_labels(folder.name, labels)

    def _first_error(self, name: str) -> str:
        for state in self._manager.states(ModelSpec(name)):
            if state.error_message:
                return state.error_message.splitlines()[0]
        return "no reason given"

    def _live(self, name: str) -> list[int]:
        return self._manager.versions.get(name, [])


def _code(error: Exception) -> int:
    if isinstance(error, ServingError):
        return int(error.code.value[0])
    return int(getattr(error, "error_code", None) or _UNKNOWN)


def _fingerprint(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of every file, so that a change shows."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:  # gone since
            continue
        found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    return tuple(found)


def load_version(
    name: str,
    version: int,
    folder: Path,
    metrics: ServerMetrics | None = None,
    scheduler: BatchScheduler | None = None,
) -> Servable:
    """Load a version and replay its warmup requests.

    Args:
        name: the model's name.
        version: the version's number.
        folder: its SavedModel.
        metrics: counts loads and warmup requests.
        scheduler: lets requests share runs of the graph.

    Raises:
        Exception: whatever TensorFlow or the warmup says.
    """
    metrics = metrics or ServerMetrics()
    started = time.perf_counter()
    try:
        servable = Servable(name, version, folder, metrics, scheduler)
    except BaseException:
        metrics.load_attempts.add(str(folder), "fail")
        raise
    loaded = time.perf_counter()
    metrics.load_attempts.add(str(folder), "success")
    metrics.load_latency.add(str(folder), by=round((loaded - started) * 1e6))
    try:
        count = replay_warmup(servable, folder)
    except BaseException:
        servable.close()
        raise
    if count is not None:
        metrics.warmup_latency.add((time.perf_counter() - loaded) * 1e6, str(folder), "OK")
        metrics.warmup_records.add(str(folder), "OK", by=count)
    return servable
