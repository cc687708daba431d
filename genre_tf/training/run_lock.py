"""One training at a time in a run folder; a rejected training leaves no files."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genre_tf.errors import InputError
from genre_tf.files import hold

_FILE = ".lock"


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Lock a run folder; the kernel releases it when the process ends, in whatever way.

    If the input is rejected (`InputError`) before any weights or frozen states were written, everything that
    was put into the folder is removed again: a corrected command starts clean.

    Args:
        run: the run folder, created if it is new.

    Raises:
        InputError: another process holds it, or it cannot be written or locked.
    """
    new, free = not run.exists(), not (run / _FILE).exists()
    lock = _locked(run)
    try:
        # Listed while we hold the lock, so that no file of another process is taken for ours.
        there = {path.name for path in run.iterdir()} - ({_FILE} if free else set())
        try:
            yield
        except (InputError, OSError):  # a file that cannot be read is wrong input too
            _take_back(run, there, new)
            raise
    finally:
        os.close(lock)


def _locked(run: Path) -> int:
    file = run / _FILE
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = hold(file, create=True, wait=False)
        if lock is not None:
            _note_holder(lock)
            return lock
        holder = file.read_bytes()[:32].decode("ascii", "replace").strip() if file.exists() else ""
    except OSError as error:
        raise InputError(
            f"{run} cannot be written or locked ({error.strerror}); give another --run, on a disk that "
            "supports locks"
        ) from None
    raise InputError(
        f"{run} is being trained by process {holder or 'unknown'}; wait for it or give another --run"
    )


def _note_holder(lock: int) -> None:
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
    except OSError:
        os.close(lock)
        raise


def _take_back(run: Path, there: set[str], new: bool) -> None:
    """Remove what was not there before, unless that would lose work."""
    if any(run.rglob("*.weights.h5")) or any(run.glob("*/*/offsets.npy")):  # offsets.npy: frozen states
        return
    for path in [path for path in run.iterdir() if path.name not in there]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if new:
        with suppress(OSError):  # not empty: something could not be removed
            run.rmdir()
