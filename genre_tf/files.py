"""Files and folders that are written completely or not at all, and locks that end with their process."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from genre_tf.errors import FailureError


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path to write to, which replaces the file if the block ends without an error.

    Args:
        file: the file; its folder is made if it is missing. If anything fails, it stays as it was.

    Yields:
        A path in the same folder.

    Raises:
        FailureError: it cannot be written.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(file)
    except OSError as error:
        raise FailureError(
            f"{file} could not be written: {error}; check the folder's permissions and the disk"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Gives a folder to write into; it becomes `out` at the end, or is removed if anything fails.

    An `out` that exists is replaced. If it cannot be written, a `FailureError` says why.
    """
    made = [parent for parent in out.parents if not parent.exists()]
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    replaced = out.parent / f".{out.name}.replaced-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    except OSError as error:
        raise FailureError(
            f"{out} could not be written: {error}; check the path, its permissions and the disk"
        ) from None
    finally:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # not empty: `out` is in it
                parent.rmdir()


def hold(file: Path, *, create: bool = False, wait: bool = True) -> int | None:
    """Lock a regular file (NFS cannot lock folders) against every other holder, also on another machine.

    Args:
        file: the file to lock; opened for writing, which NFS needs for an exclusive lock, or for reading if
            it is another user's and may only be read, which is enough on a disk of this machine.
        create: create it if it is missing.
        wait: wait until another holder releases it.

    Returns:
        A descriptor; closing it releases the lock. None if there is no such file or folder, if another holds
        the lock and `wait` is false, or if its holder removed the file before releasing it.

    Raises:
        OSError: it cannot be opened, or its file system has no locks.
    """
    try:
        descriptor = _opened(file, create)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # The file may have been removed before it was locked; such a lock would exclude no other process.
        if os.path.samestat(os.fstat(descriptor), file.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _opened(file: Path, create: bool) -> int:
    try:
        return os.open(file, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
    except PermissionError:
        if not file.exists():  # the folder is not writable, so the file cannot be created
            raise
        return os.open(file, os.O_RDONLY)
