"""Reads a behaviours file on many workers, with the same faults, line and row numbers as one reader.

A plain file is cut into byte ranges, which workers read in parallel. A gzipped file can only be read from its
beginning, so a single worker reads it. Two things depend on earlier ranges, and are found first: the form of
the log, which its first usable row says, and the impression ids that more than one range has. The number of a
row follows from how many rows each range has.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.utils.shared import Shared

from genre_tf.data.articles import ArticleTable, Impression, read_article_file
from genre_tf.data.beam.staging import local_copy, open_address
from genre_tf.data.columns import Block
from genre_tf.data.lines import MAX_FILE_BYTES, Fault, FaultPolicy, decoded, line_blocks, raw_lines, skip_line
from genre_tf.data.log_writing import BlockReader, LogTask
from genre_tf.data.mind import BEHAVIORS_COLUMNS, LogForm, id_fault, parse_behaviors

RANGE_BYTES = 16 << 20
"""16 MiB, some 25,000 impressions: small enough to keep many workers busy."""

_END_OF_FILE = 1 << 62
_RANGE = 32  # a place is the number of a range, shifted by so many bits, and the number of a line in it
_ID_GROUPS = 64

Place = int
"""Position of a line, which sorts in the order of the file."""

First = tuple[Place, LogForm] | None
"""The first usable row of a log, and its form; None if there is none."""


@dataclass(frozen=True)
class ByteRange:
    """The lines that begin at `start` or later and before `stop`."""

    number: int
    start: int
    stop: int


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


@dataclass(frozen=True)
class LogRows:
    """Facts about the whole log.

    Args:
        lines: its number of lines.
        lines_before: number of lines before each range.
        rows_before: number of usable rows before each range.
        rejected: faults of its rejected rows by place, at most one row more than allowed.
        form: form of its rows; None if none is usable.
        usable: whether to write it; if not, the starting machine reports why.
    """

    lines: int
    lines_before: dict[int, int]
    rows_before: dict[int, int]
    rejected: list[tuple[Place, list[Fault]]]
    form: LogForm | None
    usable: bool

    @classmethod
    def of(
        cls,
        counts: dict[int, tuple[int, int]],
        rejected: list[tuple[Place, list[Fault]]],
        first: First,
        allowed: int,
    ) -> "LogRows":
        """Combines the results of the workers.

        Args:
            counts: number of lines and of usable rows of each range.
            rejected: the first rows that were rejected.
            first: the first usable row.
            allowed: number of rows that may be rejected.
        """
        lines_before, rows_before, lines, rows = {}, {}, 0, 0
        for number in sorted(counts):
            lines_before[number], rows_before[number] = lines, rows
            lines, rows = lines + counts[number][0], rows + counts[number][1]
        form = first[1] if first else None
        whole_file = any(faults[0].whole_file for _, faults in rejected)
        usable = form is not None and form.labelled and len(rejected) <= allowed and not whole_file
        return cls(lines, lines_before, rows_before, sorted(rejected), form, usable)

    def faults(self, log: Path) -> list[list[Fault]]:
        """The faults of each rejected row, in the order of the file and with its line numbers."""
        return [
            [replace(fault, file=str(log), line=self._line(place, fault)) for fault in faults]
            for place, faults in self.rejected
        ]

    def _line(self, place: Place, fault: Fault) -> int:
        if fault.whole_file:
            return 0
        return self.lines_before[place >> _RANGE] + (place & ((1 << _RANGE) - 1))


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


def range_lines(log: str, part: ByteRange) -> Iterator[tuple[bytes, int]]:
    """Reads every line that begins in a range, whole; see `raw_lines`.

    Args:
        log: address of the file, gzipped if it ends in `.gz`.
        part: the range.
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
        size, lines = 0, raw_lines(stream, MAX_FILE_BYTES)
        while position + size < part.stop and (line := next(lines, None)):
            size = line[1]
            # A plain file is as large as it looks; the limit is for a small .gz of a huge log.
            yield line[0], size if gzipped else 0


def read_log(
    pipeline: beam.Pipeline, ranges: list[ByteRange], log: str, articles: TableFile, task: LogTask
) -> tuple[AsSingleton, beam.PCollection]:
    """Reads a log.

    Args:
        pipeline: takes the steps.
        ranges: from `byte_ranges`.
        log: address of the log for the workers.
        articles: the article table.
        task: how to prepare the log.

    Returns:
        `LogRows`; and blocks of columns, whose impressions have their row numbers, without counters.
    """
    parts = pipeline | "Ranges" >> beam.Create(ranges) | "Spread" >> beam.Reshuffle()
    scanned = parts | "Scan" >> beam.ParDo(ScanRange(log, articles)).with_outputs("usable", main="ids")
    first = AsSingleton(scanned.usable | "First" >> beam.CombineGlobally(_earliest))
    repeated = AsSingleton(
        scanned.ids
        | "ByGroup" >> beam.GroupByKey()
        | "InRanges" >> beam.FlatMapTuple(lambda _, parts: _in_several(parts))
        | "Repeated" >> beam.combiners.ToList()
        | "AsSet" >> beam.Map(frozenset)
    )
    taken = AsSingleton(
        parts
        | "LinesOfRepeated" >> beam.FlatMap(_lines_of, repeated, log)
        | "ById" >> beam.GroupByKey()
        | "FirstTaken" >> beam.ParDo(FirstTaken(articles), first)
        | "TakenIn" >> beam.combiners.ToDict()
    )
    read = parts | "Read" >> beam.ParDo(ReadRange(log, articles, task), first, taken).with_outputs(
        "rejected", "counts", main="blocks"
    )
    allowed = (task.policy.max_bad_rows or 0) - task.policy.bad_rows
    rejected = read.rejected | "FirstRejected" >> beam.combiners.Top.Smallest(allowed + 1, key=_place)
    rows = AsSingleton(
        read.counts
        | "Counts" >> beam.combiners.ToDict()
        | "LogRows" >> beam.Map(LogRows.of, AsSingleton(rejected), first, allowed)
    )
    return rows, read.blocks | "Number" >> beam.FlatMap(_numbered, rows)


class ScanRange(beam.DoFn):
    """Byte range -> ids by group and range; and under `usable` its first row without faults of its own."""

    def __init__(self, log: str, articles: TableFile) -> None:
        self._log, self._articles = log, articles

    def setup(self) -> None:
        """Read the ids once."""
        self._known = self._articles.load().known_ids

    def process(self, part: ByteRange) -> Iterator[Any]:
        """Scan one range."""
        groups: dict[int, set[str]] = {}
        usable = False
        for place, text in _texts(self._log, part):
            if news_id := _impression_id(text):
                groups.setdefault(zlib.crc32(news_id.encode()) % _ID_GROUPS, set()).add(news_id)
            if not usable and isinstance(row := parse_behaviors(text, self._known, (), None), Impression):
                usable = True
                yield TaggedOutput("usable", (place, LogForm.of(row)))
        yield from groups.items()


class FirstTaken(beam.DoFn):
    """(impression id, its places and lines) -> (id, range of the first row that is taken)."""

    def __init__(self, articles: TableFile) -> None:
        self._articles = articles

    def setup(self) -> None:
        """Read the ids once."""
        self._known = self._articles.load().known_ids

    def process(self, rows: tuple[str, Iterable[tuple[Place, str]]], first: First) -> Iterator[Any]:
        """Find the first row of one id without faults."""
        for place, text in sorted(rows[1]):
            form = first[1] if first is not None and place > first[0] else None
            if isinstance(parse_behaviors(text, self._known, (), form), Impression):
                yield rows[0], place >> _RANGE
                return


class ReadRange(beam.DoFn):
    """Byte range -> (range, block of columns), whose impressions are numbered in the range.

    Under `rejected`: (place, faults) of each rejected row; under `counts`: (range, (lines, usable rows)).
    """

    def __init__(self, log: str, articles: TableFile, task: LogTask) -> None:
        self._log, self._articles = log, articles
        # The table and the counters of the task are too large to travel with it.
        self._task = replace(task, table=ArticleTable(), earlier=None)

    def setup(self) -> None:
        """Read the table once."""
        self._table = self._articles.load()

    def process(self, part: ByteRange, first: First, taken: dict[str, int]) -> Iterator[Any]:
        """Read one range."""
        policy = FaultPolicy(None)
        seen = {news_id for news_id, number in taken.items() if number < part.number}
        form = first[1] if first is not None and first[0] >> _RANGE < part.number else None
        reader = BlockReader(replace(self._task, table=self._table, policy=policy), seen, form)
        lines = rows = 0
        end = part.number << _RANGE
        for line, block, fault in line_blocks(range_lines(self._log, part), Path(self._log)):
            columns = reader.read(end + line, block)
            lines += len(block)
            rows += len(columns)
            yield part.number, columns
            if fault is not None:
                yield TaggedOutput("rejected", (end + lines + 1, [fault]))
        by_line: dict[Place, list[Fault]] = {}
        for fault in policy.faults:
            by_line.setdefault(fault.line, []).append(fault)
        for rejected in by_line.items():
            yield TaggedOutput("rejected", rejected)
        yield TaggedOutput("counts", (part.number, (lines, rows)))


def _texts(log: str, part: ByteRange) -> Iterator[tuple[Place, str]]:
    """The lines of a range that are text, with their places."""
    for line, block, _ in line_blocks(range_lines(log, part), Path(log)):
        yield from decoded(log, (part.number << _RANGE) + line, block, FaultPolicy(None))


def _lines_of(part: ByteRange, ids: frozenset[str], log: str) -> Iterator[tuple[str, tuple[Place, str]]]:
    for place, text in _texts(log, part) if ids else ():
        if (news_id := _impression_id(text)) in ids:
            yield news_id, (place, text)


def _impression_id(line: str) -> str:
    fields = line.split("\t")
    return fields[0] if len(fields) in BEHAVIORS_COLUMNS and not id_fault(fields[0]) else ""


def _in_several(parts: Iterable[set[str]]) -> Iterator[str]:
    """Ids that more than one range has."""
    seen: set[str] = set()
    for ids in parts:
        yield from ids & seen
        seen |= ids


def _earliest(places: Iterable[First]) -> First:
    return min((place for place in places if place is not None), default=None)


def _place(rejected: tuple[Place, list[Fault]]) -> Place:
    return rejected[0]


def _numbered(part: tuple[int, Block], rows: LogRows) -> Iterator[Block]:
    number, block = part
    if rows.usable and len(block):
        yield replace(block, impression=block.impression + np.int64(rows.rows_before[number]))
