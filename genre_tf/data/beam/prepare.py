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
from genre_tf.data.counters import COUNTERS, Counters, epoch_seconds
from genre_tf.data.examples import ImpressionExample, build_example, validation_size
from genre_tf.data.faults import Fault
from genre_tf.data.lines import EMPTY
from genre_tf.data.log_writing import LogSummary, LogTask, SplitSummary, require_labels, require_training
from genre_tf.data.manifest import ARTICLES_FILE, COUNTERS_FILE, SPLITS, shard_name, shard_of
from genre_tf.data.mind import require_rows

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
        summary = _judged(report, task)
        for split in SPLITS:
            for shard in range(task.shards):
                staging.collect(shard_name(split, shard, task.shards))
        staging.collect(COUNTERS_FILE)
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
    begins = AsSingleton(_first_of_validation(impressions, task.validation_share))
    examples = (
        {"impression": impressions, "known": counted["known"]}
        | "JoinCounters" >> beam.CoGroupByKey()
        | "Example" >> beam.ParDo(MakeExample(articles, task))
        | "Split" >> beam.Map(lambda example, begins: (_split(example, begins), example), begins)
    )
    names = [shard_name(split, shard, task.shards) for split in SPLITS for shard in range(task.shards)]
    # A shard without examples is a file too.
    empty = impressions.pipeline | "Shards" >> beam.Create([(name, None) for name in names])
    records = examples | "Record" >> beam.Map(_record, task.shards)
    (
        (empty, records)
        | "AllShards" >> beam.Flatten()
        | "ByShard" >> beam.GroupByKey()
        | "WriteShard" >> beam.Map(_write_shard, address)
    )
    counted["counters"] | "WriteCounters" >> beam.Map(_write_counters, address)
    summaries = (
        examples
        | "Summary" >> beam.MapTuple(lambda split, example: (split, SplitSummary.of(example)))
        | "Summaries" >> beam.CombinePerKey(SplitSummary.merged)
        | "Report" >> beam.combiners.ToDict()
    )
    summaries | "WriteReport" >> beam.Map(_write_report, rows, address)


class MakeExample(beam.DoFn):
    """(row number, impression and what was known) -> example."""

    def __init__(self, articles: TableFile, task: LogTask) -> None:
        self._articles = articles
        self._max_history, self._signals = task.max_history, task.signals

    def setup(self) -> None:
        """Read the table once."""
        self._table = self._articles.load()

    def process(self, element: tuple[int, dict[str, Any]]) -> Iterator[ImpressionExample]:
        """Make one example."""
        number, joined = element
        (impression,) = joined["impression"]
        known: list[Known] = sorted(joined["known"])
        counters = np.array([values for _, values in known], np.float32)
        counters = counters.reshape(-1, len(COUNTERS))  # [candidates, 9], also if there are no candidates
        yield build_example(number, impression, self._table, counters, self._max_history, self._signals)


def _first_of_validation(impressions: beam.PCollection, validation_share: float) -> beam.PCollection:
    """The second at which validation begins, or None; hours are counted first, then seconds of one hour."""
    seconds = impressions | "Seconds" >> beam.MapTuple(lambda _, one: epoch_seconds(one.time))
    hours = (
        seconds
        | "Hour" >> beam.Map(lambda second: second // 3600)
        | "PerHourCount" >> beam.combiners.Count.PerElement()
        | "HourCounts" >> beam.combiners.ToDict()
        | "ChooseHour" >> beam.Map(_choose_hour, validation_share)
    )
    return (
        seconds
        | "InHour" >> beam.FlatMap(_seconds_in, AsSingleton(hours))
        | "PerSecondCount" >> beam.combiners.Count.PerElement()
        | "SecondCounts" >> beam.combiners.ToDict()
        | "ChooseSecond" >> beam.Map(_choose_second, AsSingleton(hours))
    )


def _choose_hour(counts: dict[int, int], validation_share: float) -> tuple[int, int] | None:
    """The hour in which validation begins, and how many of it are older; None if none is held out."""
    impressions = sum(counts.values())
    held_out = validation_size(impressions, validation_share)
    return _nth(counts, impressions - held_out) if held_out else None


def _seconds_in(second: int, hour: tuple[int, int] | None) -> Iterator[int]:
    if hour is not None and second // 3600 == hour[0]:
        yield second


def _choose_second(counts: dict[int, int], hour: tuple[int, int] | None) -> int | None:
    return None if hour is None else _nth(counts, hour[1])[0]


def _nth(counts: dict[int, int], rank: int) -> tuple[int, int]:
    """The value with rank `rank` (from 0) among counted values, and its rank among equal values."""
    for value in sorted(counts):
        if rank < counts[value]:
            return value, rank
        rank -= counts[value]
    raise ValueError(f"there are {-rank} values too few")


def _split(example: ImpressionExample, begins: int | None) -> str:
    train, validation = SPLITS
    return train if begins is None or round(example.time_hours * 3600) < begins else validation


def _record(element: tuple[str, ImpressionExample], shards: int) -> tuple[str, tuple[int, bytes]]:
    from genre_tf.data.serialization import example_record

    split, example = element
    name = shard_name(split, shard_of(example.impression, shards), shards)
    return name, (example.impression, example_record(example))


def _write_shard(shard: tuple[str, Iterable[tuple[int, bytes] | None]], address: str) -> None:
    from genre_tf.data.serialization import write_records

    name, members = shard
    records = [record for _, record in sorted(member for member in members if member is not None)]
    write_whole(address, name, lambda path: write_records(path, records))


def _write_counters(counters: Counters, address: str) -> None:
    write_whole(address, COUNTERS_FILE, counters.save)


def _write_report(splits: dict[str, SplitSummary], rows: LogRows, address: str) -> None:
    report = {
        "lines": rows.lines,
        "labelled": rows.labelled,
        "signals": rows.signals,
        "rejected": rows.rejected_rows(),
        "splits": {name: vars(summary) for name, summary in splits.items()},
    }
    text = json.dumps(report)

    def write(path: Path) -> None:
        path.write_text(text, "utf-8")

    write_whole(address, _REPORT_FILE, write)


def _judged(report: dict[str, Any], task: LogTask) -> LogSummary:
    """Reports what the workers rejected to the task's policy, as if one reader had read the log."""
    for line, faults in (Rejected(*row) for row in report["rejected"]):
        task.policy.reject([Fault(str(task.log), line, field, message) for field, message in faults])
    if not report["lines"] and not report["rejected"]:
        task.policy.reject([Fault(str(task.log), 0, "file", EMPTY)])
    usable = report["lines"] - len(report["rejected"])
    require_rows(task.log, usable, task.policy)
    require_labels(report["labelled"], task.log.parent)
    splits = {name: SplitSummary(**values) for name, values in report["splits"].items()}
    impressions = sum(summary.impressions for summary in splits.values())
    require_training(impressions, splits.get("train", SplitSummary()).impressions, task.validation_share)
    return LogSummary(splits, report["signals"])
