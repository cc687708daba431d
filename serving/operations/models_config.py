"""`models.config`: which models are served, from where, in which versions, under which labels.

People and verbs edit MODELS/models.config. MODELS/NAME/models.config repeats the entry of one servable, with
the paths of a container that has MODELS at /models; so each servable can have its own servers, and one edit
reaches all of them.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
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


def read_models_config(path: Path) -> Any:
    """The ModelServerConfig of a file; InputError if it is not one."""
    from tensorflow_serving.config import model_server_config_pb2

    try:
        return text_format.Parse(path.read_text("utf-8-sig"), model_server_config_pb2.ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a valid ModelServerConfig: {error}") from error


def configured(models: Path) -> dict[str, Any]:
    """The ModelConfig of each model that `models.config` lists; empty if there is no such file."""
    file = models / CONFIG_NAME
    entries = read_models_config(file).model_config_list.config if file.is_file() else []
    return {entry.name: entry for entry in entries}


def base_folder(models: Path, name: str, base_path: str) -> Path:
    """The folder of a configured model: MODELS/NAME if that folder exists, otherwise its own path.

    The path in `models.config` is absolute: in a copy of MODELS it still points to the original, or to a
    folder inside a container. The folder beside the file is the one that is meant.
    """
    for candidate in (models / name, Path(base_path)):
        if base_path and candidate.is_dir():
            return candidate
    raise InputError(
        f"{models / CONFIG_NAME}: no folder for model {name}, neither {models / name} nor its base_path "
        f"{base_path!r}: correct the base_path"
    )


def chosen_versions(entry: Any, there: Collection[int]) -> list[int]:
    """The versions that the policy of a ModelConfig chooses from those that are there, ascending."""
    policy, ascending = entry.model_version_policy, sorted(there)
    if policy.HasField("all"):
        return ascending
    if policy.HasField("specific"):
        return [version for version in ascending if version in policy.specific.versions]
    return ascending[-max(policy.latest.num_versions, 1) :]


@contextmanager
def edited(models: Path) -> Iterator[Any]:
    """The ModelServerConfig of a MODELS folder, for editing; written at the end unless there is an error.

    It is empty if there is no `models.config` yet. The folder is locked against other editors meanwhile.

    Raises:
        InputError: `models.config` cannot be read, or the folder cannot be written.
    """
    from tensorflow_serving.config import model_server_config_pb2

    file = models / CONFIG_NAME
    with locked(models):
        there = file.is_file()
        config = read_models_config(file) if there else model_server_config_pb2.ModelServerConfig()
        if config.HasField("custom_model_config"):
            raise InputError(f"{file} holds a custom_model_config: only a model_config_list can be edited")
        comments = _comments(file.read_text("utf-8")) if there else _HEADER
        yield config
        write_atomically(file, render(config, comments))
        for entry in config.model_config_list.config:
            _write_container_config(models, entry)


@contextmanager
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


def render(config: Any, comments: str = _HEADER) -> str:
    """The text of a ModelServerConfig; a comment above each entry explains its version policy."""
    entries = "".join(
        f"  {_GENERATED} {' '.join(policy_in_words(entry).split())}\n"  # one line, for any name
        f"  config {{\n{text_format.MessageToString(entry, indent=4)}  }}\n"
        for entry in config.model_config_list.config
    )
    return f"{comments}model_config_list {{\n{entries}}}\n"


def policy_in_words(entry: Any) -> str:
    """What the version policy of a ModelConfig means for the next export."""
    policy = entry.model_version_policy
    if policy.HasField("specific"):
        listed = ", ".join(map(str, sorted(policy.specific.versions)))
        return (
            f"{entry.name}: only version {listed}; newer exports are not served until "
            f"`genre label --load` or `genre rollback --to latest`"
        )
    if policy.HasField("all"):
        return f"{entry.name}: every version"
    count = max(policy.latest.num_versions, 1)
    newest = "the newest version" if count == 1 else f"the newest {count} versions"
    return f"{entry.name}: {newest}; a new export is served as soon as it is published"


def write_container_configs(models: Path) -> None:
    """Write the file of each servable from its entry in MODELS/models.config."""
    with locked(models):
        for entry in read_models_config(models / CONFIG_NAME).model_config_list.config:
            _write_container_config(models, entry)


def _write_container_config(models: Path, entry: Any) -> None:
    if not NAME.fullmatch(entry.name) or not (models / entry.name).is_dir():
        return  # the model is elsewhere, and so are its servers
    note = f"{_GENERATED} {entry.name} alone, for containers: written whenever ../{CONFIG_NAME} is edited.\n"
    write_atomically(models / entry.name / CONFIG_NAME, render_for_containers([entry], note))


def render_for_containers(entries: Iterable[Any], comments: str) -> str:
    """The text of a configuration with these entries, for a container that has MODELS at /models."""
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for entry in entries:
        inside = config.model_config_list.config.add()
        inside.CopyFrom(entry)
        inside.base_path = f"{CONTAINER_FOLDER}/{entry.name}"
    return render(config, comments)


def write_atomically(file: Path, content: str) -> None:
    """Write a file so that readers see the old or the new one, never a part, even after a power cut."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(f"cannot write {file} ({error.strerror}): give a writable folder") from None


def _comments(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line.startswith("#") and not line.startswith(_GENERATED)]
    return "".join(f"{line}\n" for line in kept) or _HEADER
