"""Rows of CSV, JSON Lines and Parquet files, one by one, whatever their size."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genre_tf.data.faults import Fault, FaultPolicy, listed, shown
from genre_tf.data.layouts.column_map import Reading
from genre_tf.data.lines import MAX_FILE_BYTES, MAX_LINE_BYTES, TOO_LARGE, read_lines, whole_file_fault
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
    ending = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    kind = reading.format or ENDINGS.get(ending, "")
    if kind == "csv":
        delimiter = reading.delimiter or ("\t" if ending == ".tsv" else ",")
        quotes = reading.quotes or ("none" if delimiter == "\t" else "")
        return _delimited(path, delimiter, quotes, columns, policy)
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
        self.begin_row()

    def begin_row(self) -> None:
        """Forgets the lines of the last row."""
        self.first = 0  # number of the row's first line
        self.further: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.first and not self._several:
            raise StopIteration
        number, line = next(self._lines)
        if self.first:
            self.further.append(line)
        self.first = self.first or number
        return line + "\n"


def _delimited(path: Path, delimiter: str, quotes: str, columns: Sequence[str], policy: FaultPolicy) -> Rows:
    lines = _Lines(read_lines(path, policy), several=quotes in ("", "lines"))
    csv.field_size_limit(MAX_LINE_BYTES)  # one for the process; only an open quote gets that far
    reader = csv.reader(
        lines,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    hint = "is a quote missing?"
    if quotes == "none":
        hint = 'if cells are quoted, set quotes = "line" or "lines" in the map ([reading])'
    header: list[str] | None = None
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            wrong = TOO_LONG if "field limit" in str(error) else f"{error}; {hint}"
            policy.reject([Fault(str(path), lines.first, "line", wrong)])
            continue
        if not cells:  # a blank line
            continue
        if header is None:
            header = cells
            if not _has_columns(path, header, columns, policy):
                return
        elif len(cells) != len(header):
            message = f"{len(cells)} received, {len(header)} in the header; {hint}"
            policy.reject([Fault(str(path), lines.first, "columns", message)])
        elif not quotes and _are_rows(lines.further, delimiter, len(header)):
            message = (
                f"a quote opens here and closes {len(lines.further)} lines below, but each of them is a row; "
                'close it, or set quotes in [reading]: "none" (a quote is a character) or "lines" (cells '
                "may span lines)"
            )
            policy.reject([Fault(str(path), lines.first, "line", message)])
        else:
            yield lines.first, dict(zip(header, cells, strict=True))


def _are_rows(lines: Sequence[str], delimiter: str, columns: int) -> bool:
    """Whether there are lines and each of them, taken alone, has as many columns as the header."""
    rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return bool(lines) and all(len(row) == columns for row in rows if row)


def _objects(path: Path, policy: FaultPolicy) -> Rows:
    for number, line in read_lines(path, policy):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            found = error
        if isinstance(found, dict):
            yield number, found
        else:
            reason = found if isinstance(found, Exception) else "not a JSON object"
            policy.reject([Fault(str(path), number, "line", f"{shown(line)} is not a row ({reason})")])


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


def _has_columns(path: Path, names: Sequence[str], columns: Sequence[str], policy: FaultPolicy) -> bool:
    missing = [name for name in columns if name not in names]
    twice = [name for name in columns if list(names).count(name) > 1]
    if missing:
        message = f"has no column {missing[0]!r}; its columns: {listed(names)}"
        policy.reject([whole_file_fault(path, message)])
    elif twice:
        policy.reject([whole_file_fault(path, f"has the column {twice[0]!r} more than once; rename one")])
    return not missing and not twice
