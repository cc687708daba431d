"""`models.config`, and the versions that a MODELS folder offers by it, chosen as TensorFlow Serving chooses.

People and verbs edit MODELS/models.config. MODELS/NAME/models.config repeats the entry of one servable, with
the paths of a container that has MODELS at /models; so each servable can have its own servers, and one edit
reaches all of them.
"""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from genre_tf.errors import InputError
from genre_tf.files import hold

CONFIG_NAME = "models.config"
CONTAINER_FOLDER = "/models"  # where the tensorflow/serving image expects models
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_LOCK = ".lock"  # lock file in a MODELS folder; never removed
_GENERATED = "#:"  # begins generated comments, which each edit replaces; all others are kept
_HEADER = """\
# The models to serve, their folders, versions and labels: tensorflow_model_server --model_config_file=THIS
#   --model_config_file_poll_wait_seconds=10 --allow_version_labels_for_unavailable_models=true
# Edited by `genre rollback`, `genre label` and `genre export`, each by one rename, so no server reads half a
# file. Comments are kept and moved to the top; those that begin with #: are generated and replaced.
"""
_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")

Fault = Callable[[str, int, Path], str | None]


def empty_config() -> Any:
    """A ModelServerConfig without models."""
    from tensorflow_serving.config import model_server_config_pb2

    return model_server_config_pb2.ModelServerConfig()


def read_models_config(path: Path) -> Any:
    """The ModelServerConfig of a file; InputError if it is not one."""
    try:
        return text_format.Parse(path.read_text("utf-8-sig"), empty_config())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a valid ModelServerConfig: {error}") from error


def configured(models: Path) -> dict[str, Any]:
    """The ModelConfig of each model that `models.config` lists; empty if there is no such file."""
    file = models / CONFIG_NAME
    entries = read_models_config(file).model_config_list.config if file.is_file() else []
    return {entry.name: entry for entry in entries}


def base_folder(models: Path, entry: Any) -> Path:
    """The folder of a configured model: MODELS/NAME if that folder exists, otherwise its own path.

    The path in `models.config` is absolute: in a copy of MODELS it still points to the original, or to a
    folder inside a container. The folder beside the file is the one that is meant.
    """
    for candidate in (models / entry.name, Path(entry.base_path)):
        if entry.base_path and candidate.is_dir():
            return candidate
    raise InputError(
        f"{models / CONFIG_NAME}: no folder for model {entry.name}, neither {models / entry.name} nor its "
        f"base_path {entry.base_path!r}: correct the base_path"
    )


def chosen_versions(entry: Any, there: Collection[int]) -> list[int]:
    """The versions that the policy of a ModelConfig chooses from those that are there, ascending."""
    policy, ascending = entry.model_version_policy, sorted(there)
    if policy.HasField("all"):
        return ascending
    if policy.HasField("specific"):
        return [version for version in ascending if version in policy.specific.versions]
    return ascending[-max(policy.latest.num_versions, 1) :]


@contextlib.contextmanager
def edited(models: Path) -> Iterator[Any]:
    """The ModelServerConfig of a MODELS folder, for editing; written at the end unless there is an error.

    It is empty if there is no `models.config` yet. The folder is locked against other editors meanwhile.
    """
    file = models / CONFIG_NAME
    with locked(models):
        config = read_models_config(file) if file.is_file() else empty_config()
        if config.HasField("custom_model_config"):
            raise InputError(f"{file} holds a custom_model_config: only a model_config_list can be edited")
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()] if file.is_file() else []
        kept = [line for line in lines if line.startswith("#") and not line.startswith(_GENERATED)]
        comments = "".join(f"{line}\n" for line in kept) or _HEADER
        yield config
        write_atomically(file, render(config, comments))
        write_container_configs(models, config)


@contextlib.contextmanager
def locked(models: Path) -> Iterator[None]:
    """Lock a MODELS folder against other editors; the lock ends with its process, however that ends."""
    if not models.is_dir():
        raise InputError(f"no folder of models at {models}: give the one that `genre export` wrote")
    try:
        lock = hold(models / _LOCK, create=True)
    except OSError as error:
        raise InputError(
            f"cannot lock {models} ({error.strerror}): give a writable folder, on a disk that supports locks"
        ) from None
    if lock is None:
        raise InputError(f"{models} was removed meanwhile: export again")
    try:
        yield
    finally:
        os.close(lock)


def render(config: Any, comments: str) -> str:
    """The text of a ModelServerConfig; above each entry stands what its version policy means for exports."""
    entries = ""
    for entry in config.model_config_list.config:
        policy = entry.model_version_policy
        if policy.HasField("specific"):
            listed = ", ".join(map(str, sorted(policy.specific.versions)))
            meaning = (
                f"only version {listed}; newer exports are not served until `genre label --load` or "
                "`genre rollback --to latest`"
            )
        elif policy.HasField("all"):
            meaning = "every version"
        else:
            count = max(policy.latest.num_versions, 1)
            newest = "the newest version" if count == 1 else f"the newest {count} versions"
            meaning = f"{newest}; a new export is served as soon as it is published"
        words = " ".join(f"{entry.name}: {meaning}".split())  # one line, for any name
        entries += (
            f"  {_GENERATED} {words}\n  config {{\n{text_format.MessageToString(entry, indent=4)}  }}\n"
        )
    return f"{comments}model_config_list {{\n{entries}}}\n"


def write_container_configs(models: Path, config: Any) -> None:
    """Write the file of each servable from its entry; servers of a model elsewhere have theirs elsewhere."""
    for entry in config.model_config_list.config:
        if NAME.fullmatch(entry.name) and (models / entry.name).is_dir():
            note = f"{entry.name} alone, for containers: written whenever ../{CONFIG_NAME} is edited.\n"
            content = render_for_containers([entry], f"{_GENERATED} {note}")
            write_atomically(models / entry.name / CONFIG_NAME, content)


def render_for_containers(entries: Iterable[Any], comments: str) -> str:
    """The text of a configuration with these entries, for a container that has MODELS at /models."""
    config = empty_config()
    for entry in entries:
        inside = config.model_config_list.config.add()
        inside.CopyFrom(entry)
        inside.base_path = f"{CONTAINER_FOLDER}/{entry.name}"
    return render(config, comments)


def write_atomically(file: Path, content: str, mode: int = 0o666) -> None:
    """Write a file so that readers see the old or the new one, never a part, even after a power cut."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)  # left over: it might have another mode
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT, mode), "w", encoding="utf-8") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise InputError(f"cannot write {file} ({error.strerror}): give a writable folder") from None


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model: the versions to load, the labels of versions, and what was left out."""

    name: str
    versions: dict[int, Path]  # complete version folders, chosen by the version policy, newest first
    left_out: dict[Path, str]  # version folder that the policy asks for -> why it is not loaded
    labels: dict[str, int]


def find_models(models: Path) -> list[ModelFolder]:
    """The models that `scan_models` finds, after a check that a server can start from them."""
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
    """The models of `served_config`; some may have no version to serve, or labels of versions not served.

    `fault` returns why a version (name of its model, number, folder) must not be served, or None; default:
    `version_fault` of the folder.
    """
    config = served_config(models)
    fault = fault or (lambda name, version, folder: version_fault(folder))
    return [_model(entry, base_folder(models, entry), fault) for entry in config.model_config_list.config]


def served_config(models: Path) -> Any:
    """The ModelServerConfig of a folder; without `models.config`, one of all its models in all versions."""
    if not models.is_dir():
        raise InputError(f"{models} is not a folder: give the folder that `genre export` wrote")
    file = models / CONFIG_NAME
    if file.is_file():
        config = read_models_config(file)
        names = [entry.name for entry in config.model_config_list.config]
        if not names or len(set(names)) != len(names):
            raise InputError(f"{file} must list at least one model, and each only once; it lists {names}")
        return config
    folders = [path for path in sorted(models.iterdir()) if path.is_dir() and _numbered(path)]
    if not folders:
        hint = f"; did you mean its parent, {models.parent}" if _numbered(models) else ""
        raise InputError(
            f"{models} holds no model (no {CONFIG_NAME}, and no NAME/VERSION folders){hint}: "
            "give the folder that `genre export` wrote"
        )
    config = empty_config()
    for path in folders:
        entry = config.model_config_list.config.add(name=path.name, base_path=str(path))
        entry.model_platform = "tensorflow"
        entry.model_version_policy.all.SetInParent()
    return config


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


def _model(entry: Any, base: Path, fault: Fault) -> ModelFolder:
    there, policy = _numbered(base), entry.model_version_policy
    if policy.HasField("specific"):
        there = {version: folder for version, folder in there.items() if version in policy.specific.versions}
    reasons = {version: fault(entry.name, version, folder) for version, folder in there.items()}
    # A half-written version does not count among the newest; older ones do not matter.
    complete = [version for version, reason in reasons.items() if not reason]
    chosen = {version: there[version] for version in reversed(chosen_versions(entry, complete))}
    left_out = {there[version]: reason for version, reason in reasons.items() if reason}
    if policy.HasField("specific"):
        for version in sorted(set(policy.specific.versions) - set(there)):
            left_out[base / str(version)] = f"listed in {CONFIG_NAME} but missing"
    elif not policy.HasField("all"):
        oldest = min(chosen, default=0)
        left_out = {path: reason for path, reason in left_out.items() if int(path.name) > oldest}
    return ModelFolder(entry.name, chosen, left_out, dict(entry.version_labels))


def _numbered(base: Path) -> dict[int, Path]:
    """Version folders, newest first; names that are not numbers (`3.tmp`, `.staging`) are not versions."""
    folders = [
        path for path in base.iterdir() if path.is_dir() and path.name.isascii() and path.name.isdigit()
    ]
    return dict(sorted(((int(path.name), path) for path in folders), reverse=True))
