"""The models that a server answers for: which version a request means, and how each version fares."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc

from genre_tf.errors import InputError
from genre_tf.serving.model_folders import ModelFolder
from genre_tf.serving.servable import Servable
from genre_tf.serving.statuses import ServingError, invalid_argument


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a request asks for: a model, and perhaps a version or the label of one."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class VersionState:
    """How one version fares: `state` as in ModelVersionStatus, error code 0 where all is well."""

    version: int
    state: str
    error_code: int = 0
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class _Model:
    servables: dict[int, Servable]  # newest first
    labels: dict[str, int]
    states: list[VersionState]  # newest first


class ModelManager:
    """Loads every version it is given, and finds the one that a request means.

    Args:
        say: told what is loaded, what is left out and why.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._models: dict[str, _Model] = {}

    def load(self, folders: Iterable[ModelFolder]) -> None:
        """Load models, beside those that are there.

        Raises:
            InputError: a model has no version that loads.
        """
        for folder in folders:
            self._models[folder.name] = _load(folder, self._say)

    @property
    def versions(self) -> dict[str, list[int]]:
        """Model name -> the versions that answer, newest first."""
        return {name: list(model.servables) for name, model in self._models.items()}

    def find(self, spec: ModelSpec) -> Servable:
        """The servable that `spec` means: the newest version unless it names another.

        Raises:
            ServingError: no such model, version or label.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        version = spec.version
        if spec.label is not None:
            version = model.labels.get(spec.label) if model else None
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.label}")
        servables = model.servables if model else {}
        if version is None and servables:
            version = max(servables)
        if version not in servables:
            wanted = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}")
        return servables[version]

    def states(self, spec: ModelSpec) -> list[VersionState]:
        """How the versions of a model fare, newest first; a label does not narrow them, a version does.

        Raises:
            ServingError: no such model or version.
        """
        model = self._models.get(spec.name)
        if spec.version is not None:
            matching = [state for state in (model.states if model else []) if state.version == spec.version]
            if not matching:
                text = f"Could not find version {spec.version} of model {spec.name}"
                raise ServingError(grpc.StatusCode.NOT_FOUND, text)
            return matching
        if model is None:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return model.states

    def close(self) -> None:
        """Free every session."""
        for model in self._models.values():
            for servable in model.servables.values():
                servable.close()


def _load(folder: ModelFolder, say: Callable[[str], None]) -> _Model:
    for path, reason in folder.left_out.items():
        say(f"left out {path}: {reason}")
    servables: dict[int, Servable] = {}
    states = []
    for version, path in sorted(folder.versions.items(), reverse=True):
        try:
            servables[version] = Servable(folder.name, version, path)
        except Exception as error:  # TensorFlow raises half a dozen unrelated types here
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            say(f"left out {path}: it does not load ({reason})")
            states.append(VersionState(version, "END", getattr(error, "error_code", None) or 2, str(error)))
        else:
            say(f"loaded {folder.name} version {version} from {path}")
            states.append(VersionState(version, "AVAILABLE"))
    if not servables:
        reason = states[0].error_message.splitlines()[0] if states[0].error_message else "no reason given"
        raise InputError(f"no version of model {folder.name} loads ({reason}): export it again")
    labels = {label: version for label, version in folder.labels.items() if version in servables}
    return _Model(servables, labels, states)
