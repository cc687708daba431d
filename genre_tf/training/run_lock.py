"""One training at a time in a run folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genre_tf.errors import InputError

_FILE = ".lock"


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold a run folder; the kernel gives it back when the process ends, however it ends.

    Args:
        run: the run folder, made if it is new.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
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
        yield
    finally:
        os.close(file)
