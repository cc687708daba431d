"""Lines of plain or gzipped text files, decoded one by one, with limits on their size; and faults in them."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from genre_tf.errors import InputError

MAX_LISTED_FAULTS = 10_000
"""Maximum number of listed faults, so that a broken file of millions of rows does not fill the memory."""

MAX_SHOWN_CHARACTERS = 80
"""Received values are quoted up to this length, so that a message stays one or two lines."""

MAX_LISTED_NAMES = 40
"""Maximum number of names of columns or keys in a message: the widest of the known logs has 23."""

MAX_LINE_BYTES = 1 << 20
"""1 MiB, decompressed: MIND's longest line is under 10 KiB; 10,000 clicks of history are under 100 KiB."""

MAX_FILE_BYTES = 16 << 30
"""16 GiB, decompressed: ten times MIND's largest log; it limits the cost of a malicious .gz."""

TOO_LARGE = f"holds more than {MAX_FILE_BYTES >> 30} GiB; split the log"
EMPTY = "is empty; give a file with at least one row"
_BLOCK_BYTES = 1 << 20  # some 2,000 lines of MIND
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with one row (or, at line 0, with a whole file)."""

    file: str  # path as the user gave it
    line: int  # 1-based line number; 0 concerns the whole file, which no `--max-bad-rows` can skip
    field: str  # column of the row, such as `time`; `line` or `file` if no column can be named
    message: str  # the received value, what is wrong with it and what to do

    @property
    def whole_file(self) -> bool:
        """Whether the file as a whole is unusable, rather than one row of it."""
        return self.line == 0

    def __str__(self) -> str:
        place = self.file if self.whole_file else f"{self.file}:{self.line}"
        return f"{place}: {self.field}: {self.message}"


def shown(value: str) -> str:
    """Quotes a received value for a message: escaped, so free of control characters, and cut when long."""
    if len(value) <= MAX_SHOWN_CHARACTERS:
        return repr(value)
    return f"{value[:MAX_SHOWN_CHARACTERS]!r}… ({len(value)} characters)"


def listed(names: Iterable[str]) -> str:
    """Names of columns or keys for a message: escaped, cut when long, and at most `MAX_LISTED_NAMES`."""
    found = list(names)
    more = len(found) - MAX_LISTED_NAMES
    parts = [repr(name[:MAX_SHOWN_CHARACTERS])[1:-1] for name in found[:MAX_LISTED_NAMES]]
    return ", ".join(parts) + (f" and {more:,} more" if more > 0 else "")


@dataclass
class FaultPolicy:
    """Decides what a fault does: stop at once, or skip the row, count it and list it."""

    max_bad_rows: int | None = 0  # rows that may be skipped; 0 stops at the first, None never (`genre check`)
    faults: list[Fault] = field(default_factory=list)
    bad_rows: int = 0
    unlisted: int = 0
    unusable_files: int = 0
    advice: str = "`genre check` lists every fault"  # how to see them, for the message that stops

    @classmethod
    def allowing(cls, max_bad_rows: int) -> Self:
        """A policy for `--max-bad-rows`; a negative number is an `InputError`."""
        if max_bad_rows < 0:
            raise InputError(f"--max-bad-rows must be at least 0; got {max_bad_rows}")
        return cls(max_bad_rows)

    def reject(self, faults: list[Fault]) -> None:
        """Counts one bad row (or file) with all of its faults, at least one.

        Raises:
            InputError: more rows are bad than may be skipped, or a whole file is unusable.
        """
        room = MAX_LISTED_FAULTS - len(self.faults)
        self.faults.extend(faults[:room])
        self.unlisted += max(0, len(faults) - room)
        if faults[0].whole_file:
            self.unusable_files += 1
            if self.max_bad_rows is not None:
                raise InputError(str(faults[0]))
            return
        self.bad_rows += 1
        if self.max_bad_rows is None or self.bad_rows <= self.max_bad_rows:
            return
        if self.max_bad_rows == 0:
            raise InputError(f"{faults[0]} ({self.advice}; --max-bad-rows N skips up to N rows)")
        raise InputError(
            f"more than {self.max_bad_rows} bad rows; the last: {faults[0]} "
            f"({self.advice}; raise --max-bad-rows or repair the files)"
        )


LineBlocks = Iterator[tuple[int, list[bytes], Fault | None]]
"""Some lines as they are: number of the first, from 1; the lines with their ends; and after them the fault of
the file, if it cannot be read to its end."""


def find_file(folder: Path, name: str) -> Path | None:
    """Finds `name` or `name.gz` in a folder; None if there is neither, an `InputError` if there are both."""
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if len(found) == 2:
        raise InputError(f"{folder} holds both {name} and {name}.gz; remove or rename one of them")
    return found[0] if found else None


def read_lines(path: Path, policy: FaultPolicy) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and texts of the lines of a UTF-8 text file, gzipped if its name ends in `.gz`.

    Lines that are too long or not UTF-8 go to the policy.
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
    """Lines from the current position, each with its end, or the first `MAX_LINE_BYTES` of a longer one.

    Also the bytes read so far; the rest of an endless line is not read beyond `limit` bytes.
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
    """Decodes lines from `raw_lines`, the first of which has the number `first`; `path` is for messages.

    Faulty lines go to the policy. Line 1 may begin with a byte order mark.
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
