"""Folders that are written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from genre_tf.errors import FailureError


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Gives a folder to write into; it becomes `out` at the end, or is removed if anything fails.

    Args:
        out: replaced if it exists.

    Raises:
        FailureError: it cannot be written.
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
