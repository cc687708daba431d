"""Files that are written completely or not at all."""

import contextlib
import os
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
