"""Publish versions of a servable: a version appears completely or not at all.

A version is written beside the others, in a hidden folder whose name is not a number, so that servers ignore
it. Everything is flushed to the disk; then one rename to the next number publishes it. An exporter that is
killed earlier leaves only a hidden folder, which the next exporter removes. A version is removed in the
opposite order: first renamed, then deleted.

Each hidden folder has a lock file beside it, created before the folder, deleted after it, and locked as long
as its exporter lives. So a folder is abandoned if it has no lock file or if its lock can be acquired.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genre_tf.errors import FailureError, InputError
from genre_tf.files import hold

# TensorFlow looks for a SavedModel's variables by a file pattern, their path, in which these do not stand for
# themselves. A lone bracket, * and ? do.
_PATTERN = re.compile(r"\\|\[[^/]+\]")

STAGING_PREFIX = ".unfinished-"
REMOVED_PREFIX = ".removed-"
LOCK_SUFFIX = ".lock"


def read_as_pattern(path: str | Path) -> str:
    """The part of a path because of which TensorFlow cannot load a SavedModel from it; empty if it can."""
    found = _PATTERN.search(str(path))
    return found[0] if found else ""


def check_models_path(models: Path) -> None:
    """Refuse, before any work, a folder from which TensorFlow cannot load a SavedModel."""
    path = str(models.resolve())
    if part := read_as_pattern(path):
        raise InputError(
            f"TensorFlow cannot load models from {path}, because it reads {part!r} as a file pattern: "
            "give a folder for the models whose path has no brackets and no backslash"
        )


def versions(servable: Path) -> list[int]:
    """Numbers of the published versions in MODELS/NAME, ascending."""
    if not servable.is_dir():
        return []
    names = (entry.name for entry in servable.iterdir())
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


@contextmanager
def staged(servable: Path) -> Iterator[Path]:
    """A hidden folder beside the versions for writing the next version; removed at the end if not published.

    MODELS/NAME is created if missing, and then removed again if nothing was published. The folder is empty,
    and locked as long as this process lives.
    """
    absent = [entry for entry in (servable, servable.parent) if not entry.exists()]
    try:
        _remove_abandoned(servable)
        folder, lock = _locked_folder(servable)
    except OSError as error:
        _remove_empty(absent)
        raise InputError(
            f"cannot write to {servable} ({error.strerror}): give a writable folder that supports file locks"
        ) from None
    try:
        yield folder
    finally:
        _remove_staging(folder, lock)
        _remove_empty(absent)


def publish(folder: Path) -> Path:
    """Make the complete folder that `staged` yielded the next version, MODELS/NAME/VERSION.

    Exporters that publish at the same time get different versions.
    """
    servable = folder.parent
    try:
        for root, _, files in os.walk(folder):
            for name in files:
                _flush(Path(root) / name)
            _flush(Path(root))
        while True:
            version = servable / str(max(versions(servable), default=0) + 1)
            try:
                folder.rename(version)
                break
            except OSError as error:
                # The name was free, but another exporter has used it in the meantime.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
        _flush(servable)
    except OSError as error:
        raise FailureError(f"{servable}: cannot write the new version ({error.strerror})") from None
    return version


def remove_version(servable: Path, version: int) -> None:
    """Remove a version: hide it by one rename, so that no server sees half of it, then delete it."""
    hidden = servable / f"{REMOVED_PREFIX}{version}-{secrets.token_hex(4)}"
    try:
        (servable / str(version)).rename(hidden)
        _flush(servable)
        shutil.rmtree(hidden)
    except OSError as error:
        raise FailureError(f"{servable}: cannot remove version {version} ({error.strerror})") from None


def remove_leftovers(servable: Path) -> None:
    """Delete what killed exporters and interrupted removals left behind; folders in use are kept."""
    _remove_abandoned(servable)
    for folder in servable.glob(f"{REMOVED_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _locked_folder(servable: Path) -> tuple[Path, int]:
    while True:
        folder = servable / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
        lock: int | None = None
        try:
            servable.mkdir(parents=True, exist_ok=True)
            lock = hold(_lock_file(folder), create=True)
            # None: another exporter removed the empty servable folder, or this file before it was locked.
            if lock is not None:
                folder.mkdir()
                return folder, lock
        except FileNotFoundError:
            continue
        except OSError:
            _lock_file(folder).unlink(missing_ok=True)
            if lock is not None:
                os.close(lock)
            raise


def _remove_abandoned(servable: Path) -> None:
    """Remove the staging folders of exporters that no longer run: a lock ends with its process."""
    for file in servable.glob(f"{STAGING_PREFIX}*{LOCK_SUFFIX}"):
        try:
            lock = hold(file, wait=False)
        except OSError:
            continue  # its owner is unknown, so the folder is kept
        if lock is not None:
            _remove_staging(file.with_suffix(""), lock)
    for folder in servable.glob(f"{STAGING_PREFIX}*"):
        if folder.is_dir() and not _lock_file(folder).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _remove_staging(folder: Path, lock: int) -> None:
    """Remove a folder and then its lock file, which must exist as long as the folder does."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        _lock_file(folder).unlink(missing_ok=True)
    os.close(lock)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK_SUFFIX)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _flush(entry: Path) -> None:
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
