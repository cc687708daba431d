"""Load and unload versions until they match a MODELS folder: load first, then unload.

Follows aspired_versions_manager.cc and availability_preserving_policy.cc of TensorFlow Serving.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

import grpc

from genre_tf.errors import InputError
from genre_tf.serving.embedded.batching import BatchScheduler
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.model_manager import ModelManager, ModelSpec, VersionState
from genre_tf.serving.embedded.servable import Servable
from genre_tf.serving.embedded.statuses import ServingError
from genre_tf.serving.embedded.warmup_replay import replay_warmup
from genre_tf.serving.operations.model_folders import ModelFolder

_NOT_FOUND: int = grpc.StatusCode.NOT_FOUND.value[0]
_UNKNOWN: int = grpc.StatusCode.UNKNOWN.value[0]

Fault = str | tuple[tuple[str, int, int], ...]


class VersionLoader:
    """Loads the wanted versions, newest first, and unloads all others.

    Serving continues: live versions stay until a wanted version is live, and a version that fails to load
    changes nothing. It is tried again only after its files have changed.

    Args:
        manager: holds the live versions; it is updated on each change.
        open_version: loads a version, given the name of its model, its number and its folder.
        say: called with a line for each version that is loaded, unloaded or left out; never twice in a row
            for the same fault.
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
        self._faults: dict[tuple[str, int], Fault] = {}  # the reason, or the files that did not load
        self._unmet_labels: set[tuple[str, str, int]] = set()

    def start(self, folders: Collection[ModelFolder]) -> None:
        """Load the versions that a server starts with.

        Raises:
            InputError: no version of a model loads.
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
        """Load and unload until the served versions are those that `folders` ask for.

        Args:
            folders: the models.
            only: also unload models that are not among `folders`, as TensorFlow Serving does with models
                that were removed from `models.config`.
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
        files = _fingerprint(path)  # before the load, so that a later change of the files causes another load
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
            unwanted = unwanted[:-1]  # no wanted version is live: keep the newest of the others
        labelled = set(self._manager.labels(folder.name).values()) if loading else set()
        for version in unwanted:
            if version not in labelled:  # it stays until the next version of its label is loaded
                self._unload(folder.name, version, "it was deleted, or the version policy excludes it")

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
    """Name, size and modification time of every file, to detect changes."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except OSError:  # deleted meanwhile
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
        name: name of the model.
        version: number of the version.
        folder: folder of the SavedModel.
        metrics: counts loads and warmup requests.
        scheduler: batches requests; None: every request runs separately.

    Raises:
        Exception: any error of TensorFlow or of the warmup.
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
