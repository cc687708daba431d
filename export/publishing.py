"""A version of a servable appears whole or not at all.

It is written beside, in a hidden folder whose name is no number, so that no server looks at it; everything is
flushed to the disk; one rename to the next number publishes it. Whoever is killed before leaves only a hidden
folder, which the next exporter removes. A version goes the same way back: renamed, then deleted.

A hidden folder has a lock file beside it, made before and removed after it, and held as long as its exporter
lives. So a folder without one, and one whose lock can be had, is nobody's any more.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genre_tf.data.file_locks import hold
from genre_tf.errors import FailureError, InputError

STAGING_PREFIX = ".unfinished-"
REMOVED_PREFIX = ".removed-"
LOCK_SUFFIX = ".lock"


def versions(servable: Path) -> list[int]:
    """Numbers of the published versions of a servable, ascending.

    Args:
        servable: MODELS/NAME.
    """
    if not servable.is_dir():
        return []
    names = (entry.name for entry in servable.iterdir())
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


@contextmanager
def staged(servable: Path) -> Iterator[Path]:
    """A hidden folder beside the versions, to write the next version into; gone at the end if not published.

    Args:
        servable: MODELS/NAME; made if absent, and then removed again if nothing was published.

    Yields:
        An empty folder, locked as long as this process lives.

    Raises:
        InputError: the folder cannot be written or locked.
    """
    absent = [entry for entry in (servable, servable.parent) if not entry.exists()]
    try:
        _remove_abandoned(servable)
        folder, lock = _locked_folder(servable)
    except OSError as error:
        _remove_empty(absent)
        raise InputError(
            f"cannot write to {servable} ({error.strerror}): give a writable folder, on a disk that has locks"
        ) from None
    try:
        yield folder
    finally:
        _remove_staging(folder, lock)
        _remove_empty(absent)


def publish(folder: Path) -> Path:
    """Make a staged folder the next version.

    Args:
        folder: what `staged` yielded, filled.

    Returns:
        MODELS/NAME/VERSION. Exporters that publish at the same time get different versions.

    Raises:
        FailureError: the disk refused.
    """
    servable = folder.parent
    try:
        _flush_tree(folder)
        version = _rename_to_next(folder)
        _flush(servable)
    except OSError as error:
        raise FailureError(f"{servable}: the new version could not be written ({error.strerror})") from None
    return version


def remove_version(servable: Path, version: int) -> None:
    """Take a version away: hidden by one rename, so that no server sees half of it, then deleted.

    Args:
        servable: MODELS/NAME.
        version: its number.

    Raises:
        FailureError: the disk refused.
    """
    hidden = servable / f"{REMOVED_PREFIX}{version}-{secrets.token_hex(4)}"
    try:
        (servable / str(version)).rename(hidden)
        _flush(servable)
        shutil.rmtree(hidden)
    except OSError as error:
        raise FailureError(f"{servable}: version {version} could not be removed ({error.strerror})") from None


def remove_leftovers(servable: Path) -> None:
    """Delete what killed exporters and killed removals left; living exporters keep their work."""
    _remove_abandoned(servable)
    for folder in servable.glob(f"{REMOVED_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _rename_to_next(folder: Path) -> Path:
    while True:
        version = folder.parent / str(max(versions(folder.parent), default=0) + 1)
        try:
            return folder.rename(version)
        except OSError as error:
            # The name was free and is not empty now: another exporter was first.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _locked_folder(servable: Path) -> tuple[Path, int]:
    while True:
        folder = servable / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
        lock: int | None = None
        try:
            servable.mkdir(parents=True, exist_ok=True)
            lock = hold(_lock_file(folder), create=True)
            # None where another exporter took away the empty servable, or this lock before it was held.
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
    """Remove the staging folders of exporters that no longer live: a lock dies with its process."""
    for file in servable.glob(f"{STAGING_PREFIX}*{LOCK_SUFFIX}"):
        try:
            lock = hold(file, wait=False)
        except OSError:
            continue  # whose it is cannot be told, so it stays
        if lock is not None:
            _remove_staging(file.with_suffix(""), lock)
    for folder in servable.glob(f"{STAGING_PREFIX}*"):
        if folder.is_dir() and not _lock_file(folder).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _remove_staging(folder: Path, lock: int) -> None:
    """Remove a folder and then its lock file, which must be there as long as the folder is."""
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


def _flush_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            _flush(Path(root) / name)
        _flush(Path(root))


def _flush(entry: Path) -> None:
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
