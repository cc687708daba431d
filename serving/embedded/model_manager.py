"""The models that a server answers for: which version a request gets, and the state of each version."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from genre_tf.serving.embedded.servable import Servable
from genre_tf.serving.embedded.statuses import ServingError, invalid_argument

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


@dataclass(slots=True, eq=False)
class _Live:
    """A version that answers, and the number of requests that use it."""

    servable: Servable
    users: int = 0


@dataclass(slots=True)
class _Model:
    live: dict[int, _Live] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    states: dict[int, VersionState] = field(default_factory=dict)


class ModelManager:
    """Finds the version that a request asks for, and keeps it loaded until no request uses it.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self._changed = threading.Condition()
        self._closed = False

    @property
    def versions(self) -> dict[str, list[int]]:
        """Model name -> the versions that answer, newest first; models without any are left out."""
        with self._changed:
            return {
                name: sorted(model.live, reverse=True) for name, model in self._models.items() if model.live
            }

    @contextmanager
    def use(self, spec: ModelSpec) -> Iterator[Servable]:
        """The servable that `spec` asks for; it stays loaded while the context is open.

        Raises:
            ServingError: no such model, version or label.
        """
        with self._changed:
            live = self._find(spec)
            live.users += 1
        try:
            yield live.servable
        finally:
            with self._changed:
                live.users -= 1
                if not live.users:
                    self._changed.notify_all()

    def states(self, spec: ModelSpec) -> list[VersionState]:
        """The states of a model's versions, newest first; only one if `spec` has a version. Ignores labels.

        Raises:
            ServingError: no such model or version.
        """
        with self._changed:
            model = self._models.get(spec.name)
            states = dict(model.states) if model else {}
        if spec.version is not None:
            if spec.version not in states:
                text = f"Could not find version {spec.version} of model {spec.name}"
                raise ServingError(grpc.StatusCode.NOT_FOUND, text)
            return [states[spec.version]]
        if not states:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return [states[version] for version in sorted(states, reverse=True)]

    def labels(self, name: str) -> dict[str, int]:
        """The labels of a model's versions."""
        with self._changed:
            return dict(self._models[name].labels) if name in self._models else {}

    def set_labels(self, name: str, labels: Mapping[str, int]) -> None:
        """Replace all labels of a model."""
        with self._changed:
            self._models.setdefault(name, _Model()).labels = dict(labels)

    def set_state(self, name: str, state: VersionState) -> None:
        """Set the state of a version that does not answer: START, LOADING or END."""
        with self._changed:
            self._note(name, state)

    def add(self, servable: Servable) -> None:
        """Let a version answer requests from now on."""
        with self._changed:
            if not self._closed:
                self._note(servable.name, VersionState(servable.version, "AVAILABLE"))
                self._models[servable.name].live[servable.version] = _Live(servable)
                return
        servable.close()

    def remove(self, name: str, version: int) -> None:
        """Let no new request use a version; a separate thread frees it once no request uses it."""
        with self._changed:
            live = self._models[name].live.pop(version)
            self._note(name, VersionState(version, "UNLOADING"))
        threading.Thread(target=self._free, args=(live,), name=f"unload {name}", daemon=True).start()

    def is_unloading(self, name: str, version: int) -> bool:
        """Whether a version no longer answers but is not freed yet."""
        with self._changed:
            state = self._models[name].states.get(version) if name in self._models else None
        return state is not None and state.state == "UNLOADING"

    def close(self) -> None:
        """Free every session, even if requests still use it."""
        with self._changed:
            servables = [live.servable for model in self._models.values() for live in model.live.values()]
            self._models.clear()
            self._closed = True
        for servable in servables:
            servable.close()

    def _free(self, live: _Live) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not live.users)
        live.servable.close()
        self.set_state(live.servable.name, VersionState(live.servable.version, "END"))

    def _find(self, spec: ModelSpec) -> _Live:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        version = spec.version
        if spec.label is not None:
            version = model.labels.get(spec.label) if model else None
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.label}")
        live = model.live if model else {}
        if version is None and live:
            version = max(live)
        if version not in live:
            wanted = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")
        return live[version]

    def _note(self, name: str, state: VersionState) -> None:
        states = self._models.setdefault(name, _Model()).states
        states[state.version] = state
        ended = sorted(version for version, known in states.items() if known.state == "END")
        for version in ended[:-_REMEMBERED_ENDS]:
            del states[version]
