"""Rows of CSV, JSON Lines and Parquet files of a folder, one by one, whatever their size."""

import csv
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from genre_tf.data.layouts import cells
from genre_tf.data.layouts.column_map import Reading, SkipRule
from genre_tf.data.lines import (
    EMPTY,
    MAX_FILE_BYTES,
    MAX_LINE_BYTES,
    MAX_LISTED_NAMES,
    TOO_LARGE,
    Fault,
    FaultPolicy,
    is_gzip,
    listed,
    read_lines,
    shown,
    whole_file_fault,
)
from genre_tf.data.mind import RowFaults, unquoted
from genre_tf.errors import InputError

Rows = Iterator[tuple[int, Mapping[str, Any]]]
"""1-based line (for Parquet: row) and its cells by column; absent ones are None or left out."""

ENDINGS = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    ".parquet": "parquet",
}
MAX_CELL_CHARACTERS = 250_000
"""Most characters of a cell in any format (a list: with a space after each element).

A line of MIND's files (1 MiB) holds that many in any script.
"""

TOO_LONG = f"holds more than {MAX_CELL_CHARACTERS:,} characters; shorten it (or is a quote missing?)"
PARQUET_ROWS = 1024
"""Rows decoded at a time: with histories of 1,500 clicks some tens of megabytes."""


class UnusableFile(ValueError):
    """No row of a file can be read, or none after those so far; the message says what is wrong."""


@dataclass(slots=True)
class SourceRow:
    """One row while it is read: its cells, and the faults found in them."""

    file: Path
    number: int  # 1-based line (for Parquet: row)
    cells: Mapping[str, Any]  # values by column; absent ones are None or left out
    faults: RowFaults = field(default_factory=list)  # columns and messages

    def read(self, column: str, value_of: Callable[..., Any], *more: Any) -> Any:
        """Reads one cell with a function of `cells`, which gets `more`; its `CellError` becomes a fault.

        None if the map names no such column (empty) or the cell is faulty.
        """
        if not column:
            return None
        try:
            return value_of(self.cells.get(column), *more)
        except cells.CellError as error:
            self.fault(column, str(error))
            return None

    def fault(self, column: str, message: str) -> None:
        """Adds a fault."""
        self.faults.append((column, message))


@dataclass(kw_only=True)
class SplitSummary:
    """Counts of what was written and left out in one split."""

    articles: int = 0  # written
    impressions: int = 0  # written
    clicks: int = 0  # in these
    without_click: int = 0  # impressions without a click
    without_history: int = 0  # impressions without a history
    left_out: int = 0  # rows that the map's skip rules left out
    dropped: int = 0  # clicks (or events) on unknown articles
    clicks_without_view: int = 0  # clicks of a log of events that are only history, in the whole log
    unmatched: int = 0  # its events without an earlier view or click of their article, which are left out
    bad_rows: int = 0  # rows that were skipped for a fault
    faults: tuple[Fault, ...] = ()  # of these, up to the listing limit
    made_histories: bool = False  # whether histories are clicks of a log of impressions
    warnings: tuple[str, ...] = ()  # what is allowed but unlikely to be meant


@dataclass
class Source:
    """The folder that is read, and what happens to its rows."""

    folder: Path
    reading: Reading
    policy: FaultPolicy  # decides what happens to a faulty row
    counts: SplitSummary = field(default_factory=SplitSummary)
    # Wanted columns that rows have had so far; splits share it, as they share the map.
    seen: set[str] = field(default_factory=set)
    _unseen: set[str] = field(default_factory=set, init=False)  # wanted columns that no row has had so far
    _keys: dict[str, None] = field(default_factory=dict, init=False)  # some columns that rows have had

    def rows(
        self, patterns: Sequence[str], columns: Sequence[str], skip: Sequence[SkipRule] = ()
    ) -> Iterator[SourceRow]:
        """Rows of all files that the patterns name, in the order of their names, without those of skip rules.

        Args:
            patterns: inside the folder, such as `articles.parquet` or `2017*`.
            columns: wanted columns; empty names are ignored. A CSV or Parquet file must have each; of JSON
                objects at least one must, here or in a split that was read before.
            skip: which rows are left out.
        """
        # Where the column of a rule for empty cells is misspelt, it would leave out every row.
        needed = (*columns, *(rule.column for rule in skip if not rule.value))
        wanted = [*dict.fromkeys(filter(None, needed))]
        asked = [*dict.fromkeys(rule.column for rule in skip)]
        self._unseen, self._keys = set(wanted), {}
        path = self.folder
        for path in self.files(patterns):
            try:
                for number, row in self._rows_of(path, wanted, asked):
                    too_long = [name for name in wanted if _characters(row.get(name)) > MAX_CELL_CHARACTERS]
                    if too_long:
                        self.policy.reject([Fault(str(path), number, name, TOO_LONG) for name in too_long])
                        continue
                    if self._unseen:
                        self._unseen -= row.keys()
                        self._keys |= dict.fromkeys(list(row)[: MAX_LISTED_NAMES - len(self._keys)])
                    if any(_is_skipped(row.get(rule.column), rule) for rule in skip):
                        self.counts.left_out += 1
                    else:
                        yield SourceRow(path, number, row)
            except UnusableFile as error:
                self.policy.reject([whole_file_fault(path, str(error))])
        self.seen |= set(wanted) - self._unseen
        if self._keys and self._unseen - self.seen:
            advice = "correct them in the map or leave them out (a row where they are null counts)"
            self.policy.reject([whole_file_fault(path, f"{self._unseen_keys()}; {advice}")])

    def files(self, patterns: Sequence[str]) -> list[Path]:
        """The files that patterns name, each once, sorted. Raises an `InputError` if a pattern names none."""
        found: dict[Path, None] = {}
        for pattern in patterns:
            if not pattern or PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
                raise InputError(
                    f"{pattern!r} is not a path inside {self.folder}; give a path relative to it"
                )
            matches = sorted(path for path in self.folder.glob(pattern) if path.is_file())
            if not matches:
                inner = [path for path in self.folder.iterdir() if path.is_dir() and any(path.glob(pattern))]
                advice = f"; {min(inner)} does: give that folder" if inner else ""
                raise InputError(f"{self.folder} holds no file {pattern}, which the map names{advice}")
            found |= dict.fromkeys(path for path in matches if not path.name.startswith("."))
        return list(found)

    def accepts(self, row: SourceRow) -> bool:
        """Whether a row has no fault; if it has, the policy gets them, with keys that may be misspelt."""
        if not row.faults:
            return True
        hint = f"; {self._unseen_keys()}" if self._unseen else ""
        self.policy.reject(
            [Fault(str(row.file), row.number, column, message + hint) for column, message in row.faults]
        )
        return False

    def _unseen_keys(self) -> str:
        return f"no row up to here has {listed(sorted(self._unseen))}; keys found: {listed(self._keys)}"

    def _rows_of(self, path: Path, columns: Sequence[str], optional: Sequence[str]) -> Rows:
        """The rows of a file; faulty ones go to the policy. Of Parquet only the named columns are read."""
        ending = (path.with_suffix("").suffix if is_gzip(path) else path.suffix).lower()
        kind = self.reading.format or ENDINGS.get(ending, "")
        if kind == "csv":
            return _delimited(path, self.reading, "\t" if ending == ".tsv" else ",", columns, self.policy)
        if kind == "jsonl":
            return _objects(path, self.policy)
        if kind == "parquet":
            return _parquet(path, columns, optional)
        raise InputError(
            f"{path}: the format is not clear from the ending; known endings: {', '.join(ENDINGS)}; or give "
            "the format in the map ([reading] format)"
        )


def _is_skipped(value: Any, rule: SkipRule) -> bool:
    if not rule.value:
        return cells.is_missing(value)
    return not isinstance(value, list | dict) and cells.whole(cells.text(value)) == cells.whole(rule.value)


def _characters(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return sum(_characters(each) + 1 for each in value) if isinstance(value, list) else 0


class _Lines:
    """Lines for a CSV reader, which takes more than one for a row if a quoted cell spans `several`."""

    def __init__(self, lines: Iterator[tuple[int, str]], several: bool) -> None:
        self._lines, self._several = lines, several
        self._again: deque[tuple[int, str]] = deque()
        self.row: list[tuple[int, str]] = []  # the lines of the row so far; emptied before each row

    def again(self) -> None:
        """Returns all lines of the row but its first: a faulty row must not take others with it."""
        self._again.extendleft(reversed(self.row[1:]))

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self.row and not self._several:
            raise StopIteration
        self.row.append(self._again.popleft() if self._again else next(self._lines))
        return self.row[-1][1] + "\n"


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
    advice = "is a quote missing?"
    if quotes == "none":
        advice = 'if cells are quoted, set quotes = "line" or "lines" in the map ([reading])'
    while True:
        lines.row, found = [], list[str]()
        wrong: tuple[str, str] | None = None  # column and message
        try:
            found = next(reader)
        except StopIteration:
            if (header is None and blank) or (header and not rows and not policy.bad_rows):
                raise UnusableFile(EMPTY) from None
            return
        except csv.Error as error:
            wrong = ("line", f"{error}; {advice}")
            if "field limit" in str(error):
                wrong = ("line", TOO_LONG)
            elif "new-line character" in str(error):  # the csv module advises its caller
                cut = "holds a carriage return in the middle; end lines with a line feed, or quote the cell"
                wrong = ("line", cut)
        further = [line for _, line in lines.row[1:]]
        if header and found and len(found) != len(header):
            wrong = ("columns", f"{len(found)} received, {len(header)} in the header; {advice}")
        elif header and found and not quotes and _are_rows(further, delimiter, len(header)):
            wrong = (
                "line",
                f"a quote opens here and closes {len(further)} lines below, but each of them is a row; close "
                'it, or set quotes in [reading]: "none" (a quote is a character) or "lines" (cells may span '
                "lines)",
            )
        first = lines.row[0][0] if lines.row else 0
        if header is None and (wrong or (found and first != blank + 1)):
            # Otherwise the row after a faulty header would be taken for the header.
            reason = wrong[1] if wrong else "see the fault of its line"
            raise UnusableFile(f"the header cannot be read ({reason})")
        if wrong:
            policy.reject([Fault(str(path), first, *wrong)])
            lines.again()
        elif header is None:
            blank, header = first, found or None
            if header:
                _require_columns(header, columns, delimiter)
        elif found:  # not a blank line
            rows += 1
            # Where no key says how cells are quoted, they may still be, as pandas writes some.
            texts = found if reading.quotes or quotes != "none" else map(unquoted, found)
            yield first, dict(zip(header, texts, strict=True))


def _are_rows(lines: Sequence[str], delimiter: str, columns: int) -> bool:
    """Whether there are lines and each of them, taken alone, has as many columns as the header."""
    rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return bool(lines) and all(len(row) == columns for row in rows if row)


def _objects(path: Path, policy: FaultPolicy) -> Rows:
    lines = ((number, line) for number, line in read_lines(path, policy) if line.strip())
    for place, (number, line) in enumerate(lines):
        start, kind = line.strip(), ""
        if start.startswith("[") and start[1:].lstrip()[:1] in ("{", ""):
            kind, command = "one JSON array", "jq -c '.[]'"
        elif start == "{":
            kind, command = "objects of several lines", "jq -c ."
        if place == 0 and kind:
            advice = f"write one object a line ({command}; in pandas to_json with lines=True)"
            raise UnusableFile(f"holds {kind}; {advice}")
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


def _parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> Rows:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            groups = range(file.metadata.num_row_groups)
            if sum(file.metadata.row_group(group).total_byte_size for group in groups) > MAX_FILE_BYTES:
                raise UnusableFile(TOO_LARGE)
            _require_columns(names, columns)
            wanted = [*dict.fromkeys([*columns, *(each for each in optional if each in names)])]
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=wanted):
                # Times in microseconds of UTC: Python has no nanoseconds, and MIND no zones.
                plain = [
                    each.with_type(pyarrow.timestamp("us")) if pyarrow.types.is_timestamp(each.type) else each
                    for each in batch.schema
                ]
                for row in batch.cast(pyarrow.schema(plain), safe=False).to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        lines = str(error).strip().splitlines()
        reason = shown(lines[0]) if lines else type(error).__name__
        raise UnusableFile(f"cannot be read as Parquet after row {number} ({reason})") from None
    if not number:
        raise UnusableFile(EMPTY)


def _require_columns(names: Sequence[str], columns: Sequence[str], delimiter: str = "") -> None:
    """Refuses a file that lacks a column, with what may have been meant, or has one more than once."""
    twice = [name for name in columns if list(names).count(name) > 1]
    if missing := [name for name in columns if name not in names]:
        wanted, meant = missing[0], ""
        for name in reversed(names):
            if name.strip('"') == wanted:
                meant = '; set quotes = "line" in [reading]'
            elif name.strip().casefold() == wanted.strip().casefold():
                meant = f"; is {name!r} meant?"
        for other in "|\t;," if delimiter and len(names) == 1 else "":
            if wanted in [name.strip(' "') for name in names[0].split(other)]:
                meant = f"; set delimiter = {json.dumps(other)} in [reading]"
        raise UnusableFile(f"has no column {wanted!r}; its columns: {listed(names)}{meant}")
    if twice:
        raise UnusableFile(f"has the column {twice[0]!r} more than once; rename one")
