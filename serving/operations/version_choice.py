"""Which versions of a servable are loaded, which one a request gets, and which version a label points to.

Two rules of TensorFlow Serving matter here (tensorflow/serving, model_servers/server_core.cc). A request
without version and label gets the highest loaded version. And a configuration is refused as a whole if it
*moves* a label to a version that is not loaded yet, even with --allow_version_labels_for_unavailable_models,
which is for new labels; such a move therefore needs two configurations, the first of which only loads the
version.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genre_tf.errors import InputError
from genre_tf.export.models_config import (
    CONFIG_NAME,
    base_folder,
    chosen_versions,
    configured,
    edited,
    locked,
    version_fault,
)
from genre_tf.export.publishing import remove_leftovers, remove_version, versions

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The settings of a servable in `models.config` after a change."""

    model: str
    loaded: list[int]  # versions that servers load, ascending
    labels: dict[str, int]
    newest_follow: bool  # whether a new export is served as soon as it appears
    waits_for: int | None = None  # version to load before the same command is run again; None: complete

    @property
    def default(self) -> int | None:
        """The version that a request without version and label gets; None if no version is loaded."""
        return max(self.loaded, default=None)


def served_version(models: Path, name: str) -> int | None:
    """The version that a request without version and label gets; None if there is none."""
    entry = configured(models).get(name)
    return max(_loaded(models, entry), default=None) if entry is not None else None


def held_back(version: Path) -> str | None:
    """Why servers do not load MODELS/NAME/VERSION, and what to do; None if nothing prevents it."""
    models, name = version.parent.parent, version.parent.name
    entry = configured(models).get(name)
    if entry is None or int(version.name) in _loaded(models, entry):
        return None
    again = ["genre", "rollback", str(models), name, "--to", "latest"]
    if entry.version_labels:  # the policy `latest` might unload their versions
        label = sorted(entry.version_labels)[0]
        again = ["genre", "label", str(models), name, label, version.name, "--load"]
    return (
        f"{name} version {version.name} is not served: after a rollback or a label, {CONFIG_NAME} limits "
        f"servers to version {_join(_loaded(models, entry))}. To serve it: {shlex.join(again)}"
    )


def roll_back(models: Path, name: str, to: int | None = None) -> Choice:
    """Serve an earlier version, and stay on it when newer ones are exported.

    Labels of newer versions move to it, so that no request gets a newer version than `to`; labels of older
    versions stay, and so do these versions.

    Without `to` this is the newest valid version before the present one.
    """
    with _edited_entry(models, name) as (entry, folder):
        loaded = chosen_versions(entry, versions(folder))
        if to is None:
            # If all listed versions are gone from the disk, the last of them counts as the present one.
            present = max(loaded or entry.model_version_policy.specific.versions, default=0)
            sound = [v for v in versions(folder) if v < present and version_fault(folder / str(v)) is None]
            if not sound:
                raise InputError(
                    f"{name} has no valid version before {present} in {folder} (published: "
                    f"{_join(versions(folder))})"
                )
            to = sound[-1]
        _check_version(folder, name, to)
        moving = [label for label, version in entry.version_labels.items() if version > to]
        if moving and to not in loaded:
            _load_only(entry, {*loaded, to})
            return _choice(entry, folder, waits_for=to)
        for label in moving:
            entry.version_labels[label] = to
        _load_only(entry, {to, *entry.version_labels.values()})
        return _choice(entry, folder)


def follow_newest(models: Path, name: str) -> Choice:
    """Serve the newest version again, and each newer export as soon as it appears.

    A servable with labels is refused, because their versions might be unloaded.
    """
    with _edited_entry(models, name) as (entry, folder):
        if entry.version_labels:
            given = ", ".join(
                f"{label} = {version}" for label, version in sorted(entry.version_labels.items())
            )
            raise InputError(
                f"{name} has labels ({given}), but only the newest version would be loaded: remove them "
                f"first with `genre label MODELS {name} LABEL --remove`"
            )
        entry.model_version_policy.latest.num_versions = 1
        return _choice(entry, folder)


def set_label(models: Path, name: str, label: str, version: int, *, load: bool = False) -> Choice:
    """Set or move a label. The loaded versions stay loaded; newer exports are then not served until chosen.

    A version that the policy does not load is refused, or with `load` also loaded.
    """
    if not LABEL.fullmatch(label):
        raise InputError(
            f"a label must be 1 to 63 letters, digits, - or _ and begin with a letter or digit; got {label!r}"
        )
    with _edited_entry(models, name) as (entry, folder):
        _check_version(folder, name, version)
        loaded = chosen_versions(entry, versions(folder))
        if version not in loaded and not load:
            raise InputError(
                f"servers load version {_join(loaded)} of {name}, not {version}, and would refuse the label: "
                "add --load to load this version too"
            )
        if not entry.model_version_policy.HasField("all"):
            # With `latest` the next export would unload the labelled version, and its requests would fail.
            _load_only(entry, {*loaded, version})
        if version not in loaded and entry.version_labels.get(label, version) != version:
            return _choice(entry, folder, waits_for=version)
        entry.version_labels[label] = version
        return _choice(entry, folder)


def remove_label(models: Path, name: str, label: str) -> Choice:
    """Remove a label; the loaded versions stay loaded."""
    with _edited_entry(models, name) as (entry, folder):
        if label not in entry.version_labels:
            there = ", ".join(sorted(entry.version_labels)) or "none"
            raise InputError(f"{name} has no label {label!r}; its labels: {there}")
        del entry.version_labels[label]
        return _choice(entry, folder)


def _check_version(folder: Path, name: str, version: int) -> None:
    """Refuse a version that no server could load: missing, incomplete, or without a readable graph."""
    from genre_tf.export.gate import read_saved_model

    there = versions(folder)
    if version not in there:
        raise InputError(f"{name} has no version {version} in {folder}; published: {_join(there)}")
    fault = version_fault(folder / str(version))
    if fault:
        raise InputError(f"version {version} of {name} is broken ({fault}): choose another")
    read_saved_model(folder / str(version))


@contextmanager
def _edited_entry(models: Path, name: str) -> Iterator[tuple[Any, Path]]:
    """The ModelConfig of a servable, for editing, and its folder."""
    with edited(models) as config:
        entries = {entry.name: entry for entry in config.model_config_list.config}
        if name not in entries:
            there = ", ".join(entries) or "none"
            raise InputError(f"no servable {name!r} in {models / CONFIG_NAME}; it lists: {there}")
        yield entries[name], base_folder(models, entries[name])


def _loaded(models: Path, entry: Any) -> list[int]:
    return chosen_versions(entry, versions(base_folder(models, entry)))


def _load_only(entry: Any, wanted: set[int]) -> None:
    entry.model_version_policy.Clear()
    entry.model_version_policy.specific.versions.extend(sorted(wanted))


def _choice(entry: Any, folder: Path, waits_for: int | None = None) -> Choice:
    return Choice(
        model=entry.name,
        loaded=chosen_versions(entry, versions(folder)),
        labels=dict(sorted(entry.version_labels.items())),
        newest_follow=not entry.model_version_policy.HasField("specific"),
        waits_for=waits_for,
    )


def _join(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was kept and removed of one servable."""

    model: str
    kept: dict[int, str]  # why each version is kept, such as {3: "label stable", 5: "loaded"}
    removed: list[int]  # after a dry run, versions that would be removed


def prune(models: Path, keep: int, *, name: str | None = None, dry_run: bool = False) -> list[Pruned]:
    """Remove old versions.

    A version is kept if it is among the newest `keep` valid ones, is loaded by the version policy, is listed
    in it, or has a label. A broken version is also kept if it is newer than the oldest of those `keep`.

    The configuration is locked meanwhile. Without `name` every servable of the folder is pruned.
    """
    if keep < 1:
        raise InputError(f"--keep must be at least 1, as the newest version is always kept; got {keep}")
    with locked(models):
        entries = configured(models)
        found = {folder.name: folder for folder in sorted(models.iterdir()) if versions(folder)}
        found |= {entry: base_folder(models, config) for entry, config in entries.items()}
        if name is not None and name not in found:
            raise InputError(f"no servable {name!r} in {models}; available: {', '.join(found) or 'none'}")
        chosen = [name] if name is not None else list(found)
        pruned = []
        for one in chosen:
            folder, there = found[one], versions(found[one])
            kept = _reasons(folder, there, entries.get(one), keep)
            removed = [version for version in there if version not in kept]
            if not dry_run:
                remove_leftovers(folder)
                for version in removed:
                    remove_version(folder, version)
            pruned.append(Pruned(model=one, kept=dict(sorted(kept.items())), removed=removed))
        return pruned


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
    reasons |= dict.fromkeys(chosen_versions(entry, there), "loaded")
    listed = entry.model_version_policy.specific.versions
    reasons |= {version: "listed in the version policy" for version in there if version in listed}
    labels = sorted(entry.version_labels.items())
    return reasons | {version: f"label {label}" for label, version in labels if version in there}
