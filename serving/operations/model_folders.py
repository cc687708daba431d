"""The models and versions that a MODELS folder offers, chosen as TensorFlow Serving chooses them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genre_tf.errors import InputError
from genre_tf.serving.operations.models_config import (
    CONFIG_NAME,
    base_folder,
    chosen_versions,
    read_models_config,
)

Fault = Callable[[str, int, Path], str | None]
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model: the versions to load, the labels of versions, and what was left out.

    Args:
        name: the name that requests use.
        versions: complete version folders, chosen by the version policy, newest first.
        left_out: version folder that the policy asks for -> why it is not loaded.
        labels: label -> version, such as `stable` -> 3.
    """

    name: str
    versions: dict[int, Path]
    left_out: dict[Path, str]
    labels: dict[str, int]


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
                served = ", ".join(map(str, model.versions))
                raise InputError(
                    f"label {label} of model {model.name} points to version {version}, which is not served "
                    f"(served: {served}): change the label or the version policy in {CONFIG_NAME}"
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
    fault = fault or (lambda name, version, folder: version_fault(folder))
    return (_configured if (models / CONFIG_NAME).is_file() else _discovered)(models, fault)


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
    return [ModelFolder(path.name, *_sorted_out(path.name, _numbered(path), fault), {}) for path in folders]


def _configured(models: Path, fault: Fault) -> list[ModelFolder]:
    config = models / CONFIG_NAME
    entries = read_models_config(config).model_config_list.config
    names = [entry.name for entry in entries]
    if not names or len(set(names)) != len(names):
        raise InputError(f"{config} must list at least one model, and each only once; it lists {names}")
    return [_model(entry, base_folder(models, entry.name, entry.base_path), fault) for entry in entries]


def _model(entry: Any, base: Path, fault: Fault) -> ModelFolder:
    there, policy = _numbered(base), entry.model_version_policy
    if policy.HasField("specific"):
        there = {version: folder for version, folder in there.items() if version in policy.specific.versions}
    complete, left_out = _sorted_out(entry.name, there, fault)
    # A half-written version does not count among the newest; older ones do not matter.
    chosen = {version: complete[version] for version in reversed(chosen_versions(entry, complete))}
    if policy.HasField("specific"):
        for version in sorted(set(policy.specific.versions) - set(there)):
            left_out[base / str(version)] = f"listed in {CONFIG_NAME} but missing"
    elif not policy.HasField("all"):
        oldest = min(chosen, default=0)
        left_out = {path: reason for path, reason in left_out.items() if int(path.name) > oldest}
    return ModelFolder(entry.name, chosen, left_out, dict(entry.version_labels))


def _sorted_out(name: str, there: dict[int, Path], fault: Fault) -> tuple[dict[int, Path], dict[Path, str]]:
    """Complete versions, and for the folders of the others the reason."""
    reasons = {version: fault(name, version, folder) for version, folder in there.items()}
    complete = {version: folder for version, folder in there.items() if not reasons[version]}
    return complete, {there[version]: reason for version, reason in reasons.items() if reason}


def _numbered(base: Path) -> dict[int, Path]:
    """Version folders, newest first; names that are not numbers (`3.tmp`, `.staging`) are not versions."""
    folders = [
        path for path in base.iterdir() if path.is_dir() and path.name.isascii() and path.name.isdigit()
    ]
    return dict(sorted(((int(path.name), path) for path in folders), reverse=True))
