"""Reads a behaviours file on many workers, with the same faults, line and row numbers as one reader.

A plain file is cut into byte ranges, which workers read in parallel. A gzipped file can only be read from its
beginning, so a single worker reads it. Checks that depend on earlier rows work without sorting: the first
usable row says whether the log has labels, grouping by impression id finds repeated ids, and the number of a
row is its line less the rejected rows before it, which are few (`--max-bad-rows`; else nothing is written).
"""

import gzip
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.utils.shared import Shared

from genre_tf.data.articles import ArticleTable, Impression, read_article_file
from genre_tf.data.beam.staging import local_copy, open_address
from genre_tf.data.lines import (
    DECOMPRESSION_ERRORS,
    MAX_FILE_BYTES,
    TOO_LARGE,
    BadLine,
    line_text,
    raw_lines,
    skip_line,
    undecompressed,
)
from genre_tf.data.mind_rows import BEHAVIORS_COLUMNS, LogForm, RowFaults, id_fault, parse_behaviors

RANGE_BYTES = 16 << 20
"""16 MiB, some 25,000 impressions: small enough to keep many workers busy."""

Place = tuple[int, int]
"""Position of a line: its byte range and its number in the range, from 0; sorts in the order of the file."""

_END_OF_FILE = 1 << 62


@dataclass(frozen=True)
class ByteRange:
    """The lines that begin at `start` or later and before `stop`."""

    number: int
    start: int
    stop: int


def byte_ranges(size: int, gzipped: bool) -> list[ByteRange]:
    """Cuts a file into ranges of `RANGE_BYTES`.

    Args:
        size: bytes of the file.
        gzipped: whether it must be read from its beginning; then there is one range.
    """
    if gzipped:
        return [ByteRange(0, 0, _END_OF_FILE)]
    starts = range(0, max(size, 1), RANGE_BYTES)
    return [ByteRange(number, start, start + RANGE_BYTES) for number, start in enumerate(starts)]


class ReadRange(beam.DoFn):
    """Reads the lines of a byte range.

    Gives (group, (place, line)), where only lines of one impression id share a group; (range, lines) under
    `lines`; and (place, form) of the range's first row without faults of its own under `usable`.
    """

    def __init__(self, log: str, articles: "TableFile") -> None:
        self._log = log
        self._articles = articles

    def setup(self) -> None:
        """Read the ids once."""
        self._known = self._articles.load().known_ids

    def process(self, part: ByteRange) -> Iterator[Any]:
        """Read one range."""
        count, usable = 0, False
        for line in range_lines(self._log, part):
            place = (part.number, count)
            count += not _is_whole_file(line)
            group = _impression_id(line) or f"\t{place}"  # no id holds a tab
            yield group, (place, line)
            if not usable and isinstance(line, str):
                row = parse_behaviors(line, self._known, (), None)
                if isinstance(row, Impression):
                    usable = True
                    yield beam.pvalue.TaggedOutput("usable", (place, LogForm.of(row)))
        yield beam.pvalue.TaggedOutput("lines", (part.number, count))


class TakeRows(beam.DoFn):
    """Takes the rows of one impression id in order, as a single reader of the whole log would.

    Gives (place, impression); and (place, faults) of the others under `rejected`.
    """

    def __init__(self, articles: "TableFile") -> None:
        self._articles = articles

    def setup(self) -> None:
        """Read the ids once."""
        self._known = self._articles.load().known_ids

    def process(
        self, group: tuple[str, Iterable[tuple[Place, str | BadLine]]], first: tuple[Place, LogForm] | None
    ) -> Iterator[Any]:
        """Take or reject the rows of one group."""
        seen: tuple[str, ...] = ()
        for place, line in sorted(group[1], key=lambda member: member[0]):
            if isinstance(line, BadLine):
                field = "file" if _is_whole_file(line) else "line"
                yield beam.pvalue.TaggedOutput("rejected", (place, [(field, line.message)]))
                continue
            form = first[1] if first is not None and place > first[0] else None
            row = parse_behaviors(line, self._known, seen, form)
            if isinstance(row, Impression):
                seen = (row.impression_id,)
                yield place, row
            else:
                yield beam.pvalue.TaggedOutput("rejected", (place, row))


class Rejected(NamedTuple):
    """A rejected row: its line, counted from 1, or 0 for the whole file."""

    line: int
    faults: RowFaults


@dataclass(frozen=True)
class LogRows:
    """Facts about the whole log.

    Args:
        lines: number of lines of the file.
        lines_before: number of lines before each byte range.
        rejected: rejected rows in the order of the file, at most one more than allowed.
        form: form of its rows; None if none is usable.
        allowed: number of rows that may be rejected.
    """

    lines: int
    lines_before: dict[int, int]
    rejected: list[tuple[Place, RowFaults]]
    form: LogForm | None
    allowed: int

    @classmethod
    def of(
        cls,
        counts: dict[int, int],
        rejected: list[tuple[Place, RowFaults]],
        first: tuple[Place, LogForm] | None,
        allowed: int,
    ) -> "LogRows":
        """Combines the results of the workers.

        Args:
            counts: number of lines of each byte range.
            rejected: the first rows that were rejected.
            first: place of the first usable row, and its form.
            allowed: number of rows that may be rejected.
        """
        before, lines = {}, 0
        for number in sorted(counts):
            before[number] = lines
            lines += counts[number]
        return cls(lines, before, sorted(rejected), first[1] if first else None, allowed)

    @property
    def usable(self) -> bool:
        """Whether to make examples; if not, the starting machine reports why."""
        whole_file = any(faults[0][0] == "file" for _, faults in self.rejected)
        labelled = self.form is not None and self.form.labelled
        return labelled and len(self.rejected) <= self.allowed and not whole_file

    def row_number(self, place: Place) -> int:
        """The number of an accepted row among the accepted rows."""
        return self._line(place) - bisect_left(self.rejected, (place, []))

    def rejected_rows(self) -> list[Rejected]:
        """The rejected rows in the order of the file."""
        return [
            Rejected(0 if faults[0][0] == "file" else self._line(place) + 1, faults)
            for place, faults in self.rejected
        ]

    def _line(self, place: Place) -> int:
        return self.lines_before[place[0]] + place[1]


@dataclass(frozen=True)
class TableFile:
    """The article table, read once by each worker process.

    Args:
        address: address of the file of articles.
        shared: Beam's handle for what the threads of a process share.
    """

    address: str
    shared: Shared

    def load(self) -> ArticleTable:
        """The table, of which every worker needs the ids."""
        table: ArticleTable = self.shared.acquire(self._read, tag=self.address)
        return table

    def _read(self) -> ArticleTable:
        with local_copy(self.address) as path:
            return ArticleTable(read_article_file(path))


def earliest(places: Iterable[tuple[Place, LogForm] | None]) -> tuple[Place, LogForm] | None:
    """The first usable row of a log; None if there is none."""
    return min((place for place in places if place is not None), default=None)


@dataclass(frozen=True)
class _BadFile(BadLine):
    """The file cannot be read any further."""


def _is_whole_file(line: str | BadLine) -> bool:
    return isinstance(line, _BadFile)


def _impression_id(line: str | BadLine) -> str:
    fields = line.split("\t") if isinstance(line, str) else []
    return fields[0] if len(fields) in BEHAVIORS_COLUMNS and not id_fault(fields[0]) else ""


def range_lines(log: str, part: ByteRange) -> Iterator[str | BadLine]:
    """Reads the lines of a range.

    Args:
        log: address of the file, gzipped if it ends in `.gz`.
        part: the range.

    Yields:
        Every line that begins in the range, whole; for an unusable line, its fault.
    """
    with ExitStack() as files:
        stream = files.enter_context(open_address(log))
        gzipped = log.endswith(".gz")
        if gzipped:
            stream = files.enter_context(gzip.open(stream, "rb"))
        position = part.start
        if part.start:
            # A line that begins before the range belongs to the range before, however far it reaches.
            stream.seek(part.start - 1)
            position = part.start - 1 + skip_line(stream, _END_OF_FILE)
        lines, count, size = raw_lines(stream, MAX_FILE_BYTES), 0, 0
        try:
            while position + size < part.stop and (line := next(lines, None)):
                raw, size = line
                # A plain file is as large as it looks; this limit is for a small .gz with a huge log.
                if gzipped and size > MAX_FILE_BYTES:
                    yield _BadFile(TOO_LARGE)
                    return
                count += 1
                yield line_text(raw, first=part.number == 0 and count == 1)
        except DECOMPRESSION_ERRORS as error:
            yield _BadFile(undecompressed(count, error))
