"""Lines of plain or gzipped text files, decoded one by one, with limits on their size."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from genre_tf.data.faults import Fault, FaultPolicy, shown
from genre_tf.errors import InputError

MAX_LINE_BYTES = 1 << 20
"""1 MiB, decompressed: MIND's longest line is under 10 KiB; 10,000 clicks of history are under 100 KiB."""

MAX_FILE_BYTES = 16 << 30
"""16 GiB, decompressed: ten times MIND's largest log; it limits the cost of a malicious .gz."""

TOO_LARGE = f"holds more than {MAX_FILE_BYTES >> 30} GiB; split the log"
EMPTY = "is empty; give a file with at least one row"
_BLOCK_BYTES = 1 << 20  # some 2,000 lines of MIND
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"

LineBlocks = Iterator[tuple[int, list[bytes], Fault | None]]
"""Some lines as they are: number of the first, from 1; the lines with their ends; and after them the fault of
the file, if it cannot be read to its end."""


def find_file(folder: Path, name: str) -> Path | None:
    """Finds `name` or `name.gz` in a folder; None if there is neither.

    Raises:
        InputError: both are there, so it is unclear which one is meant.
    """
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if len(found) == 2:
        raise InputError(f"{folder} holds both {name} and {name}.gz; remove or rename one of them")
    return found[0] if found else None


def read_lines(path: Path, policy: FaultPolicy) -> Iterator[tuple[int, str]]:
    """Reads the lines of a file; faulty ones go to the policy and are left out.

    Args:
        path: a UTF-8 text file, gzipped if its name ends in `.gz`.
        policy: decides what happens to a line that is too long or not UTF-8.

    Yields:
        The 1-based line number and the text without its line end.

    Raises:
        InputError: the file cannot be read or decompressed, is larger than the limit, or the policy stops.
    """
    for first, block, fault in read_blocks(path):
        yield from decoded(path, first, block, policy)
        if fault is not None:
            policy.reject([fault])


def read_blocks(path: Path) -> LineBlocks:
    """Reads a file, gzipped if its name ends in `.gz`; an `InputError` if it cannot be opened."""
    empty = True
    try:
        with gzip.open(path, "rb") if is_gzip(path) else path.open("rb") as stream:
            for block in line_blocks(raw_lines(stream, MAX_FILE_BYTES), path):
                empty = False
                yield block
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from None
    if empty:
        yield 1, [], whole_file_fault(path, EMPTY)


def line_blocks(lines: Iterable[tuple[bytes, int]], path: Path) -> LineBlocks:
    """Groups lines from `raw_lines` to blocks of about `_BLOCK_BYTES`; `path` is for messages."""
    first, block, held = 1, list[bytes](), 0
    fault = None
    try:
        for raw, size in lines:
            if size > MAX_FILE_BYTES:
                fault = whole_file_fault(path, TOO_LARGE)
                break
            block.append(raw)
            held += len(raw)
            if held >= _BLOCK_BYTES:
                yield first, block, None
                first, block, held = first + len(block), [], 0
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        read = first + len(block) - 1
        advice = "copy it again" + ("" if read else ", or remove .gz from its name if it is not gzipped")
        fault = whole_file_fault(path, f"cannot be decompressed after line {read} ({error}); {advice}")
    if block or fault:
        yield first, block, fault


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, by its name."""
    return path.suffix.lower() == ".gz"


def raw_lines(stream: BinaryIO | gzip.GzipFile, limit: int) -> Iterator[tuple[bytes, int]]:
    """Splits decompressed bytes into lines, from the current position.

    Yields:
        A line with its end, or the first `MAX_LINE_BYTES` of a longer one; and the bytes read so far. The
        rest of an endless line is not read beyond `limit` bytes.
    """
    size = 0
    while raw := stream.readline(MAX_LINE_BYTES):
        size += len(raw)
        if _is_cut(raw):
            size += skip_line(stream, limit - size)
        yield raw, size


def decoded(
    path: Path | str, first: int, lines: Iterable[bytes], policy: FaultPolicy
) -> Iterator[tuple[int, str]]:
    """Decodes lines from `raw_lines` to texts without their ends; faulty ones go to the policy.

    Args:
        path: their file, for messages.
        first: number of the first line; line 1 may begin with a byte order mark.
        lines: the lines.
        policy: decides what happens to a line that is too long or not UTF-8.

    Yields:
        Number and text of each line.
    """
    for number, raw in enumerate(lines, first):
        text = wrong = ""
        cut = _is_cut(raw)
        raw = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
        try:
            text = raw.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError as error:
            bad = f"byte 0x{raw[error.start]:02x} at position {error.start + 1} is not UTF-8"
            wrong = f"{bad}; save the file as UTF-8 (was it Latin-1 or UTF-16?)"
            if number == 1 and raw.startswith(_GZIP):
                wrong = "the file is gzipped; give it a name that ends in .gz"
        if cut:
            wrong = f"longer than {MAX_LINE_BYTES >> 20} MiB; is a line end or a quote missing?"
        elif "\0" in text:
            wrong = f"{shown(text)} holds a zero byte; save the file as UTF-8 text"
        if wrong:
            policy.reject([Fault(str(path), number, "line", wrong)])
        else:
            yield number, text


def skip_line(stream: BinaryIO | gzip.GzipFile, limit: int) -> int:
    """Reads to the end of the line, or a little over `limit` bytes of it; returns the bytes read."""
    skipped = 0
    while skipped <= limit and (part := stream.readline(MAX_LINE_BYTES)):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def whole_file_fault(path: Path, message: str) -> Fault:
    """A fault that makes the whole file unusable."""
    return Fault(str(path), 0, "file", message)


def _is_cut(raw: bytes) -> bool:
    return len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n")
