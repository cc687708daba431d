"""Writes a log as example files on the workers of a Beam runner, with the bytes that one process would write.

Order is kept by row numbers: each example has its row number, so any worker can make it, and the records of a
shard are sorted by it at the end. Each shard becomes one file, so it is gathered on one worker (choose
`--shards` so that a shard fits into a worker's memory); so are the counters (a row per article). The starting
machine reads the catalogue, because it is small compared with a log, its rows have an order, and every worker
needs its ids.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsSingleton
from apache_beam.utils.shared import Shared

from genre_tf.data.articles import Impression
from genre_tf.data.beam.counting import Known, KnownBefore
from genre_tf.data.beam.log_rows import (
    LogRows,
    ReadRange,
    Rejected,
    TableFile,
    TakeRows,
    byte_ranges,
    earliest,
)
from genre_tf.data.beam.runners import Runner
from genre_tf.data.beam.staging import Staging, write_whole
from genre_tf.data.columns import read_columns, write_block
from genre_tf.data.counters import COUNTERS, Counters
from genre_tf.data.examples import block_of
from genre_tf.data.faults import Fault
from genre_tf.data.lines import EMPTY
from genre_tf.data.log_writing import SHARD_IMPRESSIONS, LogSummary, LogTask, judged
from genre_tf.data.manifest import ARTICLES_FILE, COUNTERS_FILE, shard_name
from genre_tf.data.mind import require_rows
from genre_tf.data.mind_rows import LogForm

_REPORT_FILE = "report.json"


def write_log_with_beam(task: LogTask, folder: Path, runner: Runner) -> LogSummary:
    """Writes the shards of both splits, and the counters as of the end of the log; see `write_log`.

    Args:
        task: the log, and how to prepare it.
        folder: where to write; `articles.tfrecord` is in it already.
        runner: the Beam runner that does the work.

    Returns:
        What was written.

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
            rows, impressions = _read(pipeline, ranges, log, articles, _allowed(task))
            _write(rows, impressions, articles, task, staging.address)
        report = json.loads(staging.collect(_REPORT_FILE).read_text("utf-8"))
        (folder / _REPORT_FILE).unlink()
        rows_left = _reported(report, task)
        form = LogForm(*report["form"]) if report["form"] else None
        if form is None or not form.labelled:
            judged(form, np.zeros(0, np.int64), task)
        shards = -(-rows_left // SHARD_IMPRESSIONS)
        columns = read_columns([staging.collect(shard_name(shard)) for shard in range(shards)])
        begins = judged(form, columns.seconds, task)
        staging.collect(COUNTERS_FILE)
        summary = LogSummary(shards, bool(form and form.signals), begins).add(columns)
    finally:
        staging.close()
    return summary


def _allowed(task: LogTask) -> int:
    return (task.policy.max_bad_rows or 0) - task.policy.bad_rows


def _read(
    pipeline: beam.Pipeline, ranges: list[Any], log: str, articles: TableFile, allowed: int
) -> tuple[AsSingleton, beam.PCollection]:
    """Yields `LogRows`, and (row number, impression)."""
    read = (
        pipeline
        | "Ranges" >> beam.Create(ranges)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(ReadRange(log, articles)).with_outputs("lines", "usable", main="rows")
    )
    first = AsSingleton(read.usable | "First" >> beam.CombineGlobally(earliest))
    taken = (
        read.rows
        | "ById" >> beam.GroupByKey()
        | "Take" >> beam.ParDo(TakeRows(articles), first).with_outputs("rejected", main="taken")
    )
    rejected = taken.rejected | "FirstRejected" >> beam.combiners.Top.Smallest(allowed + 1)
    rows = AsSingleton(
        read.lines
        | "Lines" >> beam.combiners.ToDict()
        | "LogRows" >> beam.Map(LogRows.of, AsSingleton(rejected), first, allowed)
    )
    return rows, taken.taken | "Number" >> beam.FlatMap(_numbered, rows)


def _numbered(element: tuple[Any, Impression], rows: LogRows) -> Iterator[tuple[int, Impression]]:
    place, impression = element
    if rows.usable:
        yield rows.row_number(place), impression


def _write(
    rows: AsSingleton, impressions: beam.PCollection, articles: TableFile, task: LogTask, address: str
) -> None:
    """Writes shards, counters and a report for the starting machine."""
    counted = impressions | KnownBefore(articles)
    (
        {"impression": impressions, "known": counted["known"]}
        | "JoinCounters" >> beam.CoGroupByKey()
        | "Shard" >> beam.MapTuple(lambda number, joined: (number // SHARD_IMPRESSIONS, (number, joined)))
        | "ByShard" >> beam.GroupByKey()
        | "WriteShard" >> beam.ParDo(WriteShard(articles, task, address))
    )
    counted["counters"] | "WriteCounters" >> beam.Map(_write_counters, address)
    one = impressions.pipeline | "One" >> beam.Create([None])
    one | "WriteReport" >> beam.Map(lambda _, rows: _write_report(rows, address), rows)


class WriteShard(beam.DoFn):
    """(shard, its row numbers with the impression and what was known) -> a file of columns."""

    def __init__(self, articles: TableFile, task: LogTask, address: str) -> None:
        self._articles, self._address = articles, address
        self._max_history, self._signals = task.max_history, task.signals

    def setup(self) -> None:
        """Read the table once."""
        self._table = self._articles.load()

    def process(self, shard: tuple[int, Iterable[tuple[int, dict[str, Any]]]]) -> None:
        """Write one shard."""
        members = sorted(shard[1], key=lambda member: member[0])
        known: list[list[Known]] = [sorted(joined["known"]) for _, joined in members]
        counters = np.array([values for of_row in known for _, values in of_row], np.float32)
        block = block_of(
            [joined["impression"][0] for _, joined in members],
            self._table,
            self._max_history,
            counters.reshape(-1, len(COUNTERS)),
            first=members[0][0],
            signals=self._signals,
        )
        write_whole(self._address, shard_name(shard[0]), lambda path: write_block(path, block))


def _write_counters(counters: Counters, address: str) -> None:
    write_whole(address, COUNTERS_FILE, counters.save)


def _write_report(rows: LogRows, address: str) -> None:
    text = json.dumps({"lines": rows.lines, "form": rows.form, "rejected": rows.rejected_rows()})

    def write(path: Path) -> None:
        path.write_text(text, "utf-8")

    write_whole(address, _REPORT_FILE, write)


def _reported(report: dict[str, Any], task: LogTask) -> int:
    """Reports what the workers rejected to the task's policy, as if one reader had read the log.

    Returns:
        The number of usable rows.
    """
    for line, faults in (Rejected(*row) for row in report["rejected"]):
        task.policy.reject([Fault(str(task.log), line, field, message) for field, message in faults])
    if not report["lines"] and not report["rejected"]:
        task.policy.reject([Fault(str(task.log), 0, "file", EMPTY)])
    usable: int = report["lines"] - len(report["rejected"])
    require_rows(task.log, usable, task.policy)
    return usable
