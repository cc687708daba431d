"""One training at a time in a run folder, which a refused one leaves as it was."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from genre_tf.errors import InputError

_FILE = ".lock"


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold a run folder; the kernel gives it back when the process ends, however it ends.

    Whatever was put into the folder is gone again if the input is refused (`InputError`) before any weights
    were written or frozen states computed: a corrected command finds nothing of the wrong one.

    Args:
        run: the run folder, made if it is new.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    new, free = not run.exists(), not (run / _FILE).exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = os.open(run / _FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{run} cannot be written ({error.strerror}): give another --run") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise InputError(
                f"{run} is being trained by process {holder}: wait for it, or give another --run"
            ) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode("ascii"), 0)
        # Listed by who holds the folder: nothing of another process is taken for ours.
        there = {path.name for path in run.iterdir()} - ({_FILE} if free else set())
        try:
            yield
        except (InputError, OSError):  # a file that cannot be read is wrong input too
            _take_back(run, there, new)
            raise
    finally:
        os.close(file)


def _take_back(run: Path, there: set[str], new: bool) -> None:
    """Remove what was not there before, unless work would be lost with it."""
    if any(run.rglob("*.weights.h5")) or any(run.glob("*/*/offsets.npy")):  # of frozen states
        return
    for path in [path for path in run.iterdir() if path.name not in there]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if new:
        with suppress(OSError):  # what could not be removed is in it
            run.rmdir()
