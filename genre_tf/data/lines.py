"""Lines of plain or gzipped text files, decoded one by one, with limits on what a file may cost."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from genre_tf.data.faults import Fault, FaultPolicy, shown
from genre_tf.errors import InputError

MAX_LINE_BYTES = 1 << 20
"""1 MiB, decompressed: MIND's longest line is under 10 KiB; 10,000 clicks of history are under 100 KiB."""

MAX_FILE_BYTES = 16 << 30
"""16 GiB, decompressed: ten times MIND's largest log; it bounds what a malicious .gz can cost."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def find_file(folder: Path, name: str) -> Path | None:
    """Finds `name` or `name.gz` in a folder.

    Args:
        folder: where to look.
        name: file name without `.gz`.

    Returns:
        The path, or None if there is neither.

    Raises:
        InputError: both are there, so that it is not clear which is meant.
    """
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if len(found) == 2:
        raise InputError(f"{folder} holds both {name} and {name}.gz; remove or rename one of them")
    return found[0] if found else None


def read_lines(path: Path, policy: FaultPolicy) -> Iterator[tuple[int, str]]:
    """Reads the lines of a file; faulty ones go to the policy and are left out.

    Args:
        path: a UTF-8 text file, gzipped if its name ends in `.gz`.
        policy: decides what a line that is too long or not UTF-8 does.

    Yields:
        The 1-based line number and the text without its line end.

    Raises:
        InputError: the file cannot be read or decompressed, is larger than the limit, or the policy stops.
    """
    number, size = 0, 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            while raw := stream.readline(MAX_LINE_BYTES):
                number += 1
                size += len(raw)
                too_long = len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n")
                if too_long:
                    size += _skip_line(stream, MAX_FILE_BYTES - size)
                if size > MAX_FILE_BYTES:
                    policy.reject(
                        [_whole(path, f"holds more than {MAX_FILE_BYTES >> 30} GiB; split the log")]
                    )
                    return
                if number == 1:
                    raw = raw.removeprefix(_BYTE_ORDER_MARK)
                text = _too_long(path, number) if too_long else _decoded(path, number, raw.rstrip(b"\r\n"))
                if isinstance(text, Fault):
                    policy.reject([text])
                else:
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        policy.reject([_whole(path, f"cannot be decompressed after line {number} ({error}); copy it again")])
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}; check the path and its rights"
        ) from None
    if number == 0:
        policy.reject([_whole(path, "is empty; give a file with at least one row")])


def _skip_line(stream: BinaryIO | gzip.GzipFile, limit: int) -> int:
    skipped = 0
    while skipped <= limit and (part := stream.readline(MAX_LINE_BYTES)):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _decoded(path: Path, number: int, raw: bytes) -> str | Fault:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{raw[error.start]:02x} at position {error.start + 1} is not UTF-8"
        return Fault(str(path), number, "line", f"{bad}; save the file as UTF-8 (was it Latin-1 or UTF-16?)")
    if "\0" in text:
        return Fault(
            str(path), number, "line", f"{shown(text)} holds a zero byte; save the file as UTF-8 text"
        )
    return text


def _too_long(path: Path, number: int) -> Fault:
    message = f"longer than {MAX_LINE_BYTES >> 20} MiB; is a line end or a quote missing?"
    return Fault(str(path), number, "line", message)


def _whole(path: Path, message: str) -> Fault:
    return Fault(str(path), 0, "file", message)
