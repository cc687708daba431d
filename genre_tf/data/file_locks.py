"""Locks that end with their process, whatever becomes of it; on regular files: NFS has none for folders."""

import fcntl
import os
from pathlib import Path


def hold(file: Path, *, create: bool = False, wait: bool = True) -> int | None:
    """Lock a file against every other holder, also on another machine of the same NFS.

    Args:
        file: it; opened for writing, without which NFS grants no exclusive lock, or for reading where another
            user's may only be read, which is enough on a disk of this machine.
        create: make it if it is absent.
        wait: until another holder lets go.

    Returns:
        A descriptor; closing it lets go. None where there is no such file or folder, another holds it and
        `wait` is false, or its holder removed it before it let go.

    Raises:
        OSError: it cannot be opened, or its file system has no locks.
    """
    try:
        descriptor = _opened(file, create)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # What was opened may have been removed before it was locked: a lock on it would keep nobody out.
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
        if not file.exists():  # it is the folder that may not be written, and nobody will make the file
            raise
        return os.open(file, os.O_RDONLY)
