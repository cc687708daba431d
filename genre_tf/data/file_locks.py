"""Locks that end with their process, however it ends; on regular files, as NFS cannot lock folders."""

import fcntl
import os
from pathlib import Path


def hold(file: Path, *, create: bool = False, wait: bool = True) -> int | None:
    """Lock a file against every other holder, also on another machine of the same NFS.

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
