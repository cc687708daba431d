"""Writes a log as columns on the workers of a Beam runner, with the bytes that one process would write.

A plain file is cut into byte ranges, which workers read in parallel. A gzipped file can only be read from its
beginning, so a single worker reads it. Two things depend on earlier ranges, and are found first: the form of
the log, which its first usable row says, and the impression ids that more than one range has. The number of a
row follows from how many rows each range has.

Workers pass columns to each other, never single rows. Counters are computed in the three steps of
`genre_tf.data.log_counters`: the sums of all articles and hours are merged; then the events of an hour, in
groups of articles, are looked up by one worker each; and each file is written by one worker. The starting
machine reads the catalogue, because it is small compared with a log, its rows have an order, and every worker
needs its ids.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.utils.shared import Shared

from genre_tf.data.articles import ArticleTable, Impression, read_article_file
from genre_tf.data.beam.runners import Runner
from genre_tf.data.beam.staging import Staging, local_copy, open_address, write_whole
from genre_tf.data.columns import Block, Floats, ImpressionColumns, Ints, Rows, read_columns, write_block
from genre_tf.data.counters import COUNTERS, Counters
from genre_tf.data.lines import (
    EMPTY,
    MAX_FILE_BYTES,
    Fault,
    FaultPolicy,
    decoded,
    line_blocks,
    raw_lines,
    skip_line,
)
from genre_tf.data.log_counters import HOUR_SECONDS, Events, Hours, HourSums
from genre_tf.data.mind import BEHAVIORS_COLUMNS, LogForm, id_fault, parse_behaviors, require_rows
from genre_tf.data.prepared import ARTICLES_FILE, COUNTERS_FILE, Manifest, contents, shard_name
from genre_tf.data.preparing import SHARD_IMPRESSIONS, BlockReader, LogTask, judged

RANGE_BYTES = 16 << 20
"""16 MiB, some 25,000 impressions: small enough to keep many workers busy."""

_END_OF_FILE = 1 << 62
_RANGE = 32  # a place is the number of a range, shifted by so many bits, and the number of a line in it
_ID_GROUPS = 64
_ARTICLE_GROUPS = 16  # of an hour, whose events one worker looks up
_REPORT_FILE = "report.json"

Place = int
"""Position of a line, which sorts in the order of the file."""

First = tuple[Place, LogForm] | None
"""The first usable row of a log, and its form; None if there is none."""

Known = tuple[Ints, Ints, Floats]
"""Row numbers of impressions, places among their candidates, and counters float32 [E, 9]."""


@dataclass(frozen=True)
class ByteRange:
    """The lines that begin at `start` or later and before `stop`."""

    number: int
    start: int
    stop: int


class Views(NamedTuple):
    """Some views of one hour: articles, seconds, clicks, and where the counters belong."""

    rows: Rows  # int32 [E]
    seconds: Ints  # int64 [E]
    clicked: npt.NDArray[np.uint8]  # uint8 [E]
    impression: Ints  # int64 [E], row numbers in the log
    slot: Ints  # int64 [E], place among the candidates


@dataclass(frozen=True)
class LogRows:
    """Facts about the whole log."""

    lines: int
    rows_before: dict[int, int]  # number of usable rows before each range
    faults: list[list[tuple[int, str, str]]]  # of each rejected row, at most one row more than allowed
    form: LogForm | None  # form of its rows; None if none is usable
    usable: bool  # whether to write it; if not, the starting machine reports why

    @classmethod
    def of(
        cls,
        counts: dict[int, tuple[int, int]],
        rejected: list[tuple[Place, list[Fault]]],
        first: First,
        allowed: int,
    ) -> "LogRows":
        """Combines the lines and usable rows of each range, and the first rows that were rejected."""
        lines_before, rows_before, lines, rows = {}, {}, 0, 0
        for number in sorted(counts):
            lines_before[number], rows_before[number] = lines, rows
            lines, rows = lines + counts[number][0], rows + counts[number][1]
        found = []
        for place, faults in sorted(rejected):
            line = lines_before[place >> _RANGE] + (place & ((1 << _RANGE) - 1))
            found.append([(0 if one.whole_file else line, one.field, one.message) for one in faults])
        form = first[1] if first else None
        whole_file = any(faults[0].whole_file for _, faults in rejected)
        usable = form is not None and form.labelled and len(rejected) <= allowed and not whole_file
        return cls(lines, rows_before, found, form, usable)


def write_log_with_beam(task: LogTask, folder: Path, runner: Runner) -> Manifest:
    """Writes the columns of a log, and the counters as of its end, on workers; see `write_log`.

    Raises:
        InputError: as `write_log`, with the same messages; or the runner cannot be used.
        FailureError: the runner failed.
        OSError: the folder cannot be written.
    """
    staging = Staging(folder, runner.temp_location)
    try:
        log = staging.share(task.log)
        articles = TableFile(staging.share(folder / ARTICLES_FILE), Shared())
        ranges = byte_ranges(task.log.stat().st_size, task.log.suffix == ".gz")
        with runner.pipeline() as pipeline:
            rows, blocks = _read_log(pipeline, ranges, log, articles, task)
            _write_folder(rows, blocks, articles, staging.address)
        report = json.loads(staging.collect(_REPORT_FILE).read_text("utf-8"))
        (folder / _REPORT_FILE).unlink()
        # Reported as if one reader had read the log.
        for faults in report["rejected"]:
            task.policy.reject([Fault(str(task.log), *fault) for fault in faults])
        if not report["lines"] and not report["rejected"]:
            task.policy.reject([Fault(str(task.log), 0, "file", EMPTY)])
        usable: int = report["lines"] - len(report["rejected"])
        require_rows(task.log, usable, task.policy)
        form = LogForm(*report["form"]) if report["form"] else None
        shards = -(-usable // SHARD_IMPRESSIONS) if form is not None and form.labelled else 0
        columns = read_columns([staging.collect(shard_name(shard)) for shard in range(shards)])
        begins = judged(form, columns.seconds, task)
        staging.collect(COUNTERS_FILE)
        return contents(columns, shards, begins)
    finally:
        staging.close()


def byte_ranges(size: int, gzipped: bool) -> list[ByteRange]:
    """Cuts a file of so many bytes into ranges of `RANGE_BYTES`; a gzipped one is a single range."""
    if gzipped:
        return [ByteRange(0, 0, _END_OF_FILE)]
    starts = range(0, max(size, 1), RANGE_BYTES)
    return [ByteRange(number, start, start + RANGE_BYTES) for number, start in enumerate(starts)]


def range_lines(log: str, part: ByteRange) -> Iterator[tuple[bytes, int]]:
    """Reads every line that begins in a range of the file with this address, whole; see `raw_lines`."""
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


def _read_log(
    pipeline: beam.Pipeline, ranges: list[ByteRange], log: str, articles: "TableFile", task: LogTask
) -> tuple[AsSingleton, beam.PCollection]:
    """`LogRows`; and blocks of columns, whose impressions have their row numbers, without counters."""
    parts = pipeline | "Ranges" >> beam.Create(ranges) | "Spread" >> beam.Reshuffle()
    scanned = parts | "Scan" >> beam.ParDo(ScanRange(articles, log)).with_outputs("usable", main="ids")
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
    read = parts | "Read" >> beam.ParDo(ReadRange(articles, log, task), first, taken).with_outputs(
        "rejected", "counts", main="blocks"
    )
    allowed = (task.policy.max_bad_rows or 0) - task.policy.bad_rows
    first_rejected = beam.combiners.Top.Smallest(allowed + 1, key=lambda rejected: rejected[0])
    rejected = read.rejected | "FirstRejected" >> first_rejected
    rows = AsSingleton(
        read.counts
        | "Counts" >> beam.combiners.ToDict()
        | "LogRows" >> beam.Map(LogRows.of, AsSingleton(rejected), first, allowed)
    )
    return rows, read.blocks | "Number" >> beam.FlatMap(_numbered, rows)


def _write_folder(rows: AsSingleton, blocks: beam.PCollection, articles: "TableFile", address: str) -> None:
    """Writes files, counters and a report for the starting machine."""
    sums = blocks | "HourSums" >> beam.Map(_hour_sums) | "AllHours" >> beam.CombineGlobally(HourSums.merged)
    known = (
        blocks
        | "Views" >> beam.FlatMap(_views)
        | "ByHour" >> beam.GroupByKey()
        | "Counters" >> beam.ParDo(CountHour(articles), AsSingleton(sums))
    )
    pieces = blocks | "Shards" >> beam.FlatMap(_by_shard)
    (
        {"blocks": pieces, "known": known}
        | "ByShard" >> beam.CoGroupByKey()
        | "WriteShard" >> beam.Map(_write_shard, address)
    )
    sums | "WriteCounters" >> beam.Map(_write_counters, articles, address)
    one = blocks.pipeline | "One" >> beam.Create([None])
    one | "WriteReport" >> beam.Map(_write_report, rows, address)


@dataclass(frozen=True)
class TableFile:
    """The article table in a file, read once by each worker process: `shared` is Beam's handle for it."""

    address: str
    shared: Shared

    def load(self) -> ArticleTable:
        """The table, of which every worker needs the ids."""
        table: ArticleTable = self.shared.acquire(self._read, tag=self.address)
        return table

    def _read(self) -> ArticleTable:
        with local_copy(self.address) as path:
            return ArticleTable(read_article_file(path))


class _WithTable(beam.DoFn):
    """A step that needs the articles."""

    def __init__(self, articles: TableFile) -> None:
        self._articles = articles

    def setup(self) -> None:
        """Read the table once."""
        self._table = self._articles.load()


class ScanRange(_WithTable):
    """Byte range -> ids by group and range; and under `usable` its first row without faults of its own."""

    def __init__(self, articles: TableFile, log: str) -> None:
        super().__init__(articles)
        self._log = log

    def process(self, part: ByteRange) -> Iterator[Any]:
        """Scan one range."""
        groups: dict[int, set[str]] = {}
        known, usable = self._table.known_ids, False
        for place, text in _texts(self._log, part):
            if news_id := _impression_id(text):
                groups.setdefault(zlib.crc32(news_id.encode()) % _ID_GROUPS, set()).add(news_id)
            if not usable and isinstance(row := parse_behaviors(text, known, (), None), Impression):
                usable = True
                yield TaggedOutput("usable", (place, LogForm.of(row)))
        yield from groups.items()


class FirstTaken(_WithTable):
    """(impression id, its places and lines) -> (id, range of its first row without faults)."""

    def process(self, rows: tuple[str, Iterable[tuple[Place, str]]], first: First) -> Iterator[Any]:
        """Find the first row of one id."""
        for place, text in sorted(rows[1]):
            form = first[1] if first is not None and place > first[0] else None
            if isinstance(parse_behaviors(text, self._table.known_ids, (), form), Impression):
                yield rows[0], place >> _RANGE
                return


class ReadRange(_WithTable):
    """Byte range -> (range, block of columns), whose impressions are numbered in the range.

    Under `rejected`: (place, faults) of each rejected row; under `counts`: (range, (lines, usable rows)).
    """

    def __init__(self, articles: TableFile, log: str, task: LogTask) -> None:
        super().__init__(articles)
        # The table and the counters of the task are too large to travel with it.
        self._log, self._task = log, replace(task, table=ArticleTable(), earlier=None)

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


class CountHour(_WithTable):
    """((hour, group of articles), its `Views`) -> (shard, `Known`)."""

    def setup(self) -> None:
        """Nothing is known of the sums yet."""
        super().setup()
        self._hours: tuple[HourSums, Hours] | None = None

    def process(self, hour: tuple[Any, Iterable[Views]], sums: HourSums) -> Iterator[tuple[int, Known]]:
        """Look up the events of one hour."""
        if self._hours is None or self._hours[0] is not sums:
            self._hours = sums, Hours(sums, len(self._table), None, self._table.published)
        views = Views(*(np.concatenate(column) for column in zip(*hour[1], strict=True)))
        events = Events(views.rows, views.seconds, views.clicked)
        known = self._hours[1].before(views.rows, views.seconds, events)
        shards = views.impression // SHARD_IMPRESSIONS
        for shard in np.unique(shards).tolist():
            of = shards == shard
            yield shard, (views.impression[of], views.slot[of], known[of])


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


def _numbered(part: tuple[int, Block], rows: LogRows) -> Iterator[Block]:
    number, block = part
    if rows.usable and len(block):
        yield replace(block, impression=block.impression + np.int64(rows.rows_before[number]))


def _hour_sums(block: Block) -> HourSums:
    return HourSums.of(block.candidates, block.seconds[block.row_of_candidate], block.labels)


def _views(block: Block) -> Iterator[tuple[tuple[int, int], Views]]:
    row = block.row_of_candidate
    seconds = block.seconds[row]
    slot = np.arange(len(row)) - block.candidate_ends[row]
    columns = (block.candidates, seconds, block.labels, block.impression[row], slot)
    keys = np.stack([seconds // HOUR_SECONDS, block.candidates % _ARTICLE_GROUPS], 1)
    found, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    cuts = np.cumsum(np.bincount(group, minlength=len(found)))[:-1]
    parts = zip(*(np.split(np.asarray(column)[order], cuts) for column in columns), strict=True)
    for key, part in zip(found.tolist(), parts, strict=True):
        yield (key[0], key[1]), Views(*part)


def _by_shard(block: Block) -> Iterator[tuple[int, Block]]:
    shards = block.impression // SHARD_IMPRESSIONS
    for shard in np.unique(shards).tolist():
        yield shard, ImpressionColumns([block]).take(np.flatnonzero(shards == shard))


def _write_shard(joined: tuple[int, dict[str, Iterable[Any]]], address: str) -> None:
    shard, parts = joined
    blocks: list[Block] = sorted(parts["blocks"], key=lambda block: int(block.impression[0]))
    columns = ImpressionColumns(blocks)
    block = columns.take(np.arange(len(columns)))
    counters = np.zeros((len(block.candidates), len(COUNTERS)), np.float32)
    for impressions, slots, values in parts["known"]:
        counters[block.candidate_ends[impressions - block.impression[0]] + slots] = values
    whole = replace(block, counters=counters)
    write_whole(address, shard_name(shard), lambda path: write_block(path, whole))


def _write_counters(sums: HourSums, articles: TableFile, address: str) -> None:
    table, counters = articles.load(), Counters()
    counters.replace(table.news_ids, Hours(sums, len(table), None, table.published).state())
    write_whole(address, COUNTERS_FILE, counters.save)


def _write_report(_: None, rows: LogRows, address: str) -> None:
    text = json.dumps({"lines": rows.lines, "form": rows.form, "rejected": rows.faults})
    write_whole(address, _REPORT_FILE, lambda path: path.write_text(text, "utf-8"))
