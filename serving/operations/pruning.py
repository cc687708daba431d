"""Remove old versions to free disk space, but no version that a server needs or a request may name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genre_tf.errors import InputError
from genre_tf.export.publishing import remove_leftovers, remove_version, versions
from genre_tf.serving.operations.model_folders import (
    CONFIG_NAME,
    base_folder,
    read_models_config,
    version_fault,
)
from genre_tf.serving.operations.models_config import locked
from genre_tf.serving.operations.version_choice import loaded_versions


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was kept and removed of one servable.

    Attributes:
        model: name of the servable.
        kept: version -> why it is kept, such as {3: "label stable", 5: "loaded"}.
        removed: versions that were removed; after a dry run, versions that would be.
    """

    model: str
    kept: dict[int, str]
    removed: list[int]


def prune(models: Path, keep: int, *, name: str | None = None, dry_run: bool = False) -> list[Pruned]:
    """Remove old versions.

    A version is kept if it is among the newest `keep` valid ones, is loaded by the version policy, is listed
    in it, or has a label. A broken version is also kept if it is newer than the oldest of those `keep`.

    Args:
        models: the MODELS folder; its configuration is locked while this runs.
        keep: number of newest valid versions of each servable that are always kept; at least 1.
        name: servable to prune; None: every servable of the folder.
        dry_run: remove nothing, only return what would be removed.

    Raises:
        InputError: no such folder or servable, or `keep` below 1.
        FailureError: a version could not be removed.
    """
    if keep < 1:
        raise InputError(f"--keep must be at least 1, as the newest version is always kept; got {keep}")
    with locked(models):
        configured = _configured(models)
        found = {folder.name: folder for folder in sorted(models.iterdir()) if versions(folder)}
        found |= {entry: base_folder(models, entry, config.base_path) for entry, config in configured.items()}
        if name is not None and name not in found:
            raise InputError(f"no servable {name!r} in {models}; available: {', '.join(found) or 'none'}")
        chosen = [name] if name is not None else list(found)
        return [_prune(found[one], one, configured.get(one), keep, dry_run) for one in chosen]


def _configured(models: Path) -> dict[str, Any]:
    if not (models / CONFIG_NAME).is_file():
        return {}
    return {entry.name: entry for entry in read_models_config(models / CONFIG_NAME).model_config_list.config}


def _prune(folder: Path, name: str, entry: Any | None, keep: int, dry_run: bool) -> Pruned:
    there = versions(folder)
    kept = _reasons(folder, there, entry, keep)
    removed = [version for version in there if version not in kept]
    if not dry_run:
        remove_leftovers(folder)
        for version in removed:
            remove_version(folder, version)
    return Pruned(model=name, kept=dict(sorted(kept.items())), removed=removed)


def _reasons(folder: Path, there: list[int], entry: Any | None, keep: int) -> dict[int, str]:
    sound = [version for version in there if version_fault(folder / str(version)) is None]
    newest = sound[-keep:]
    reasons = dict.fromkeys(newest, f"among the newest {keep}")
    # Somebody may still examine a recent broken version, so only old ones are removed.
    reasons |= {
        v: "broken, newer than a kept version" for v in there if v not in sound and v > min(newest, default=0)
    }
    if entry is None:
        return reasons
    reasons |= dict.fromkeys(loaded_versions(entry, folder), "loaded")
    reasons |= {version: "listed in the version policy" for version in there if version in _listed(entry)}
    labels = sorted(entry.version_labels.items())
    return reasons | {version: f"label {label}" for label, version in labels if version in there}


def _listed(entry: Any) -> set[int]:
    return set(entry.model_version_policy.specific.versions)
