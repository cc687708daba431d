"""What a server answers with: the versions that live, their states, and the requests that use them."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from genre_tf.serving.embedded.errors import ServingError, invalid_argument, not_found
from genre_tf.serving.embedded.servable import Servable

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
        self._changed = threading.Condition()
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
        """Set the state of a version that does not answer: START, LOADING or END."""
        with self._changed:
            self._note(name, state)

    def add(self, servable: Servable) -> None:
        """Let a version answer requests from now on."""
        with self._changed:
            if not self._closed:
                self._note(servable.name, VersionState(servable.version, "AVAILABLE"))
                self._models[servable.name].live[servable.version] = servable
                return
        servable.close()

    def remove(self, name: str, version: int) -> None:
        """Let no new request use a version; a separate thread frees it once no request uses it."""
        with self._changed:
            servable = self._models[name].live.pop(version)
            self._note(name, VersionState(version, "UNLOADING"))

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

    def _note(self, name: str, state: VersionState) -> None:
        states = self._models.setdefault(name, _Model()).states
        states[state.version] = state
        ended = sorted(version for version, known in states.items() if known.state == "END")
        for version in ended[:-_REMEMBERED_ENDS]:
            del states[version]


def _chosen(spec: ModelSpec) -> str:
    return "" if spec.version is None else f" in version {spec.version}"
