"""The models and versions that a MODELS folder offers, chosen as TensorFlow Serving chooses them."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from genre_tf.errors import InputError

CONFIG_NAME = "models.config"
Fault = Callable[[str, int, Path], str | None]
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model: the versions to load, the labels of versions, and what was left out.

    Args:
        name: the name that requests use.
        versions: complete version folders, chosen by the version policy.
        labels: label -> version, such as `stable` -> 3.
        left_out: version folder that the policy asks for -> why it is not loaded.
    """

    name: str
    versions: dict[int, Path]
    labels: dict[str, int]
    left_out: dict[Path, str]


def find_models(models: Path) -> list[ModelFolder]:
    """The models that `scan_models` finds, after a check that a server can start from them.

    Raises:
        InputError: as `scan_models`; or a model has no complete version, or a label points to a version that
            is not served.
    """
    found = scan_models(models)
    for model in found:
        if not model.versions:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in model.left_out.items())
            raise InputError(
                f"model {model.name} in {models} has no complete version "
                f"({reasons or 'no numbered folder'}): export it again"
            )
        for label, version in model.labels.items():
            if version not in model.versions:
                raise InputError(
                    f"label {label} of model {model.name} points to version {version}, which is not served "
                    f"(served: {_join(model.versions)}): change the label or the version policy in "
                    f"{CONFIG_NAME}"
                )
    return found


def scan_models(models: Path, fault: Fault | None = None) -> list[ModelFolder]:
    """Read `models.config` if there is one, otherwise take every folder that contains numbered folders.

    Without a configuration all complete versions are served, the newest by default; with one, its
    version policy decides (TensorFlow Serving's default is the newest version only).

    Args:
        models: the folder.
        fault: returns why a version (name of its model, number, folder) must not be served, or None;
            default: `version_fault` of the folder.

    Returns:
        The models; some may have no version to serve, or labels of versions that are not served.

    Raises:
        InputError: the folder does not exist, contains no model, or its configuration is invalid.
    """
    if not models.is_dir():
        raise InputError(f"{models} is not a folder: give the folder that `genre export` wrote")
    config = models / CONFIG_NAME
    fault = fault or (lambda name, version, folder: version_fault(folder))
    return _configured(models, config, fault) if config.is_file() else _discovered(models, fault)


def version_fault(folder: Path) -> str | None:
    """Why a version folder is half-written, or None if it is complete.

    A SavedModel is complete if it has its graph (`saved_model.pb`) and every shard that the names of its
    variable files announce.
    """
    graph = folder / "saved_model.pb"
    if not graph.is_file():
        return "saved_model.pb is missing"
    if graph.stat().st_size == 0:
        return "saved_model.pb is empty"
    variables = folder / "variables"
    names = {path.name for path in variables.iterdir()} if variables.is_dir() else set()
    shards = [match for match in map(_SHARD.fullmatch, sorted(names)) if match]
    if ("variables.index" in names) != bool(shards):
        return f"{variables} is half-written"
    if shards and len(shards) != int(shards[0].group(2)):
        return f"{variables} has {len(shards)} of {int(shards[0].group(2))} shards"
    return None


def _discovered(models: Path, fault: Fault) -> list[ModelFolder]:
    folders = [path for path in sorted(models.iterdir()) if path.is_dir() and _numbered(path)]
    if not folders:
        hint = f"; did you mean its parent, {models.parent}" if _numbered(models) else ""
        raise InputError(
            f"{models} holds no model (no {CONFIG_NAME}, and no NAME/VERSION folders){hint}: "
            "give the folder that `genre export` wrote"
        )
    return [_model(path.name, path, None, None, {}, fault) for path in folders]


def _configured(models: Path, config: Path, fault: Fault) -> list[ModelFolder]:
    parsed = read_models_config(config)
    entries = parsed.model_config_list.config
    names = [entry.name for entry in entries]
    if not names or len(set(names)) != len(names):
        raise InputError(f"{config} must list at least one model, and each only once; it lists {names}")
    found = []
    for entry in entries:
        policy = entry.model_version_policy
        base = base_folder(models, entry.name, entry.base_path)
        versions = set(policy.specific.versions) if policy.HasField("specific") else None
        newest = None if versions or policy.HasField("all") else max(policy.latest.num_versions, 1)
        found.append(_model(entry.name, base, versions, newest, dict(entry.version_labels), fault))
    return found


def read_models_config(path: Path) -> Any:
    """The ModelServerConfig of a file.

    Raises:
        InputError: the file is not a ModelServerConfig.
    """
    from tensorflow_serving.config import model_server_config_pb2

    try:
        return text_format.Parse(path.read_text("utf-8-sig"), model_server_config_pb2.ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a valid ModelServerConfig: {error}") from error


def base_folder(models: Path, name: str, base_path: str) -> Path:
    """The folder of a configured model: MODELS/NAME if that folder exists, otherwise its own path.

    The path in `models.config` is absolute: in a copy of MODELS it still points to the original, or to a
    folder inside a container. The folder beside the file is the one that is meant.

    Args:
        models: the MODELS folder.
        name: name of the model.
        base_path: its path in `models.config`.

    Raises:
        InputError: neither folder exists.
    """
    for candidate in (models / name, Path(base_path)):
        if base_path and candidate.is_dir():
            return candidate
    raise InputError(
        f"{models / CONFIG_NAME}: no folder for model {name}, neither {models / name} nor its base_path "
        f"{base_path!r}: correct the base_path"
    )


def _model(
    name: str,
    base: Path,
    versions: set[int] | None,
    newest: int | None,
    labels: dict[str, int],
    fault: Fault,
) -> ModelFolder:
    complete: dict[int, Path] = {}
    left_out: dict[Path, str] = {}
    for version, folder in _numbered(base):
        if versions is not None and version not in versions:
            continue
        reason = fault(name, version, folder)
        if reason:
            left_out[folder] = reason
        else:
            complete[version] = folder
    for version in sorted((versions or set()) - set(complete)):
        left_out.setdefault(base / str(version), "listed in models.config but missing")
    if newest is not None:
        complete = dict(list(complete.items())[:newest])
        oldest = min(complete, default=0)  # older half-written folders do not matter
        left_out = {path: reason for path, reason in left_out.items() if int(path.name) > oldest}
    return ModelFolder(name, complete, labels, left_out)


def _numbered(base: Path) -> list[tuple[int, Path]]:
    """Version folders, newest first; names that are not numbers (`3.tmp`, `.staging`) are not versions."""
    folders = [
        path for path in base.iterdir() if path.is_dir() and path.name.isascii() and path.name.isdigit()
    ]
    return sorted(((int(path.name), path) for path in folders), reverse=True)


def _join(versions: Iterable[int]) -> str:
    return ", ".join(map(str, versions))
