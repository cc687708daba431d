"""Rows of CSV, JSON Lines and Parquet files, one by one, whatever their size."""

import csv
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genre_tf.data.faults import Fault, FaultPolicy, listed, shown
from genre_tf.data.layouts.column_map import Reading
from genre_tf.data.lines import (
    DECOMPRESSION_ERRORS,
    EMPTY,
    MAX_FILE_BYTES,
    MAX_LINE_BYTES,
    TOO_LARGE,
    is_gzip,
    open_bytes,
    read_lines,
    whole_file_fault,
)
from genre_tf.data.mind_rows import unquoted
from genre_tf.errors import InputError

Row = Mapping[str, Any]
Rows = Iterator[tuple[int, Row]]

ENDINGS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
ENDINGS |= {".parquet": "parquet"}
MAX_CELL_CHARACTERS = 250_000
"""Most characters of a cell of any format, a list counted as its texts with a space after each.

A line of MIND's files (1 MiB) holds that many in any script.
"""

TOO_LONG = f"holds more than {MAX_CELL_CHARACTERS:,} characters; shorten it (or is a quote missing?)"
_LOOKED_AT = 1024  # bytes from which a JSON document is known
PARQUET_ROWS = 1024
"""Rows decoded at a time: with histories of 1,500 clicks some tens of megabytes."""


def read_table(
    path: Path, reading: Reading, columns: Sequence[str], policy: FaultPolicy, optional: Sequence[str] = ()
) -> Rows:
    """Reads the rows of a file; faulty ones go to the policy and are left out.

    Args:
        path: a CSV file with a header, JSON Lines (either may be gzipped, `.gz`), or Parquet.
        reading: format of the file.
        columns: wanted columns; a CSV or Parquet file must have them, a JSON object may leave some out.
        policy: decides what happens to a faulty row.
        optional: columns to read if the file has them.

    Yields:
        1-based line (for Parquet: row) and its cells by column; absent ones are None or left out.

    Raises:
        InputError: the file cannot be read or is too large, or the policy stops.
    """
    for number, row in _rows(path, reading, columns, policy, optional):
        faults = [
            Fault(str(path), number, column, TOO_LONG)
            for column in columns
            if _characters(row.get(column)) > MAX_CELL_CHARACTERS
        ]
        if faults:
            policy.reject(faults)
        else:
            yield number, row


def _characters(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return sum(_characters(each) + 1 for each in value) if isinstance(value, list) else 0


def _rows(
    path: Path, reading: Reading, columns: Sequence[str], policy: FaultPolicy, optional: Sequence[str]
) -> Rows:
    ending = (path.with_suffix("").suffix if is_gzip(path) else path.suffix).lower()
    kind = reading.format or ENDINGS.get(ending, "")
    if kind == "csv":
        return _delimited(path, reading, "\t" if ending == ".tsv" else ",", columns, policy)
    if kind == "jsonl":
        return _objects(path, policy)
    if kind == "parquet":
        return _parquet(path, columns, optional, policy)
    raise InputError(
        f"{path}: the format is not clear from the ending; known endings: {', '.join(ENDINGS)}; or give the "
        "format in the map ([reading] format)"
    )


class _Lines:
    """Lines for a CSV reader, which takes more than one for a row if a quoted cell spans lines.

    Args:
        lines: numbered lines of the file.
        several: whether a row may have several lines; otherwise the reader finds no more lines.
    """

    def __init__(self, lines: Iterator[tuple[int, str]], several: bool) -> None:
        self._lines, self._several = lines, several
        self._again: deque[tuple[int, str]] = deque()
        self._row: list[tuple[int, str]] = []

    @property
    def first(self) -> int:
        """Number of the row's first line; 0 if it has none yet."""
        return self._row[0][0] if self._row else 0

    @property
    def further(self) -> list[str]:
        """The row's other lines."""
        return [line for _, line in self._row[1:]]

    def begin_row(self) -> None:
        """Forgets the lines of the last row."""
        self._row = []

    def again(self) -> None:
        """Returns all lines of the row but its first: a faulty row must not take others with it."""
        self._again.extendleft(reversed(self._row[1:]))

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._row and not self._several:
            raise StopIteration
        self._row.append(self._again.popleft() if self._again else next(self._lines))
        return self._row[-1][1] + "\n"


def _delimited(path: Path, reading: Reading, usual: str, columns: Sequence[str], policy: FaultPolicy) -> Rows:
    delimiter = reading.delimiter or usual
    quotes = reading.quotes or ("none" if delimiter == "\t" else "")
    lines = _Lines(read_lines(path, policy), several=quotes in ("", "lines"))
    csv.field_size_limit(MAX_LINE_BYTES)  # one for the process; only an open quote gets that far
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    header: list[str] | None = None
    blank = rows = 0  # blank: lines before the header
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
            wrong = _row_fault(cells, header, lines.further, delimiter, quotes)
        except StopIteration:
            if (header is None and blank) or (header and not rows and not policy.bad_rows):
                policy.reject([whole_file_fault(path, EMPTY)])
            return
        except csv.Error as error:
            cells, wrong = [], _line_fault(str(error), quotes)
        if header is None and (wrong or (cells and lines.first != blank + 1)):
            # Otherwise the row after a faulty header would be taken for the header.
            message = f"the header cannot be read ({wrong[1] if wrong else 'see the fault of its line'})"
            policy.reject([whole_file_fault(path, message)])
            return
        if wrong:
            policy.reject([Fault(str(path), lines.first, *wrong)])
            lines.again()
        elif header is None:
            blank, header = lines.first, cells or None
            if header and not _has_columns(path, header, columns, policy, delimiter):
                return
        elif cells:  # not a blank line
            rows += 1
            # Where no key says how cells are quoted, they may still be, as pandas writes some.
            texts = cells if reading.quotes or quotes != "none" else map(unquoted, cells)
            yield lines.first, dict(zip(header, texts, strict=True))


def _row_fault(
    cells: Sequence[str], header: Sequence[str] | None, further: Sequence[str], delimiter: str, quotes: str
) -> tuple[str, str] | None:
    """The fault of a row that was read, if any: column and message."""
    if header is None or not cells:
        return None
    if len(cells) != len(header):
        return "columns", f"{len(cells)} received, {len(header)} in the header; {_hint(quotes)}"
    if not quotes and _are_rows(further, delimiter, len(header)):
        return "line", (
            f"a quote opens here and closes {len(further)} lines below, but each of them is a row; close it, "
            'or set quotes in [reading]: "none" (a quote is a character) or "lines" (cells may span lines)'
        )
    return None


def _line_fault(error: str, quotes: str) -> tuple[str, str]:
    if "field limit" in error:
        return "line", TOO_LONG
    if "new-line character" in error:  # the csv module advises its caller
        return "line", "holds a carriage return in the middle; end lines with a line feed, or quote the cell"
    return "line", f"{error}; {_hint(quotes)}"


def _hint(quotes: str) -> str:
    if quotes == "none":
        return 'if cells are quoted, set quotes = "line" or "lines" in the map ([reading])'
    return "is a quote missing?"


def _are_rows(lines: Sequence[str], delimiter: str, columns: int) -> bool:
    """Whether there are lines and each of them, taken alone, has as many columns as the header."""
    rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return bool(lines) and all(len(row) == columns for row in rows if row)


def _objects(path: Path, policy: FaultPolicy) -> Rows:
    if wrong := _whole_document(path):
        policy.reject([whole_file_fault(path, wrong)])
        return
    for number, line in read_lines(path, policy):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            found = error
        if isinstance(found, dict):
            yield number, found
        else:
            reason = found if isinstance(found, Exception) else "not a JSON object"
            policy.reject([Fault(str(path), number, "line", f"{shown(line)} is not a row ({reason})")])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} is there more than once")
    return found


def _whole_document(path: Path) -> str | None:
    """What to do with a file that is one JSON document, such as an array of objects; None if it is not."""
    try:
        with open_bytes(path) as stream:
            begins = stream.read(_LOOKED_AT).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (*DECOMPRESSION_ERRORS, OSError):
        return None  # `read_lines` reports it
    if begins.startswith(b"[") and begins[1:].lstrip()[:1] in (b"{", b""):
        kind, command = "one JSON array", "jq -c '.[]'"
    elif begins.startswith(b"{") and begins[1:].lstrip(b" \t\r").startswith(b"\n"):
        kind, command = "objects of several lines", "jq -c ."
    else:
        return None
    return f"holds {kind}; write one object a line ({command}; in pandas to_json with lines=True)"


def _parquet(path: Path, columns: Sequence[str], optional: Sequence[str], policy: FaultPolicy) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            groups = range(file.metadata.num_row_groups)
            if sum(file.metadata.row_group(group).total_byte_size for group in groups) > MAX_FILE_BYTES:
                policy.reject([whole_file_fault(path, TOO_LARGE)])
                return
            if not _has_columns(path, names, columns, policy):
                return
            wanted = [*dict.fromkeys([*columns, *(each for each in optional if each in names)])]
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=wanted):
                cells = [_plain(batch.column(name)).to_pylist() for name in wanted]
                for row in zip(*cells, strict=True):
                    number += 1
                    yield number, dict(zip(wanted, row, strict=True))
    except (pyarrow.ArrowException, OSError) as error:
        lines = str(error).strip().splitlines()
        reason = shown(lines[0]) if lines else type(error).__name__
        policy.reject([whole_file_fault(path, f"cannot be read as Parquet after row {number} ({reason})")])
        return
    if not number:
        policy.reject([whole_file_fault(path, "is empty; give a file with at least one row")])


def _plain(column: Any) -> Any:
    """Times in microseconds of UTC: Python has no nanoseconds, and MIND no zones."""
    import pyarrow

    if pyarrow.types.is_timestamp(column.type):
        return column.cast(pyarrow.timestamp("us"), safe=False)
    return column


def _has_columns(
    path: Path, names: Sequence[str], columns: Sequence[str], policy: FaultPolicy, delimiter: str = ""
) -> bool:
    missing = [name for name in columns if name not in names]
    twice = [name for name in columns if list(names).count(name) > 1]
    if missing:
        meant = _meant(missing[0], names, delimiter)
        message = f"has no column {missing[0]!r}; its columns: {listed(names)}{meant}"
        policy.reject([whole_file_fault(path, message)])
    elif twice:
        policy.reject([whole_file_fault(path, f"has the column {twice[0]!r} more than once; rename one")])
    return not missing and not twice


def _meant(wanted: str, names: Sequence[str], delimiter: str) -> str:
    """What may have been meant by a column that is not there."""
    for other in ",;\t|" if delimiter and len(names) == 1 else "":
        if wanted in [name.strip(' "') for name in names[0].split(other)]:
            return f"; set delimiter = {json.dumps(other)} in [reading]"
    for name in names:
        if name.strip('"') == wanted:
            return '; set quotes = "line" in [reading]'
        if name.strip().casefold() == wanted.strip().casefold():
            return f"; is {name!r} meant?"
    return ""
