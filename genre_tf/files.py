"""Files and folders that are written completely or not at all, and locks that end with their process."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genre_tf.errors import FailureError, InputError


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path to write to, in the same folder, which replaces the file if the block ends without an error."""
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
    """A folder to write into; it replaces `out` at the end, or is removed if anything fails."""
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

    It is opened for writing, which NFS needs for an exclusive lock, or for reading if it is another user's
    and may only be read, which is enough on a disk of this machine.

    Returns a descriptor; closing it releases the lock. None if there is no such file (see `create`), if
    another holds the lock and `wait` is false, or if its holder removed the file before releasing it.
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


def read_json_object(path: Path, remedy: str = "Fetch the file again.") -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file. Anything else is an `InputError`."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not valid JSON ({error}). {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a JSON object. {remedy}")
    return content


def read_text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends; other text is an `InputError`."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    # Not splitlines(): a token may be a character that Python treats as the end of a line.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
