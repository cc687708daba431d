"""Writes a log as columns on the workers of a Beam runner, with the bytes that one process would write.

Workers pass columns to each other, never single rows. Counters are computed in the three steps of
`genre_tf.data.view_log`: the sums of all articles and hours are merged; then the events of an hour, in groups
of articles, are looked up by one worker each; and each file is written by one worker. The starting machine
reads the catalogue, because it is small compared with a log, its rows have an order, and every worker needs
its ids.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsSingleton
from apache_beam.utils.shared import Shared

from genre_tf.data.beam.log_rows import LogRows, TableFile, byte_ranges, read_log
from genre_tf.data.beam.runners import Runner
from genre_tf.data.beam.staging import Staging, write_whole
from genre_tf.data.columns import Block, Floats, ImpressionColumns, Ints, Rows, read_columns, write_block
from genre_tf.data.counters import COUNTERS, Counters
from genre_tf.data.decay import HOUR_SECONDS
from genre_tf.data.lines import EMPTY, Fault
from genre_tf.data.log_writing import SHARD_IMPRESSIONS, LogSummary, LogTask, judged
from genre_tf.data.manifest import ARTICLES_FILE, COUNTERS_FILE, shard_name
from genre_tf.data.mind import LogForm, require_rows
from genre_tf.data.view_log import Events, Hours, HourSums

_REPORT_FILE = "report.json"
_ARTICLE_GROUPS = 16  # of an hour, whose events one worker looks up


class Views(NamedTuple):
    """Some views of one hour: articles, seconds, clicks, and where the counters belong.

    Args:
        rows: int32 [E].
        seconds: int64 [E].
        clicked: uint8 [E].
        impression: int64 [E], row numbers in the log.
        slot: int64 [E], place among the candidates.
    """

    rows: Rows
    seconds: Ints
    clicked: npt.NDArray[np.uint8]
    impression: Ints
    slot: Ints


Known = tuple[Ints, Ints, Floats]
"""Row numbers of impressions, places among their candidates, and counters float32 [E, 9]."""


def write_log_with_beam(task: LogTask, folder: Path, runner: Runner) -> LogSummary:
    """Writes the columns of a log, and the counters as of its end; see `write_log`.

    Args:
        task: the log, and how to prepare it.
        folder: where to write; the articles are in it already.
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
            rows, blocks = read_log(pipeline, ranges, log, articles, task)
            _write(rows, blocks, articles, staging.address)
        report = json.loads(staging.collect(_REPORT_FILE).read_text("utf-8"))
        (folder / _REPORT_FILE).unlink()
        usable, form = _reported(report, task)
        shards = -(-usable // SHARD_IMPRESSIONS) if form is not None and form.labelled else 0
        columns = read_columns([staging.collect(shard_name(shard)) for shard in range(shards)])
        begins = judged(form, columns.seconds, task)
        staging.collect(COUNTERS_FILE)
        return LogSummary(shards, form is not None and form.signals, begins).add(columns)
    finally:
        staging.close()


def _write(rows: AsSingleton, blocks: beam.PCollection, articles: TableFile, address: str) -> None:
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


class CountHour(beam.DoFn):
    """((hour, group of articles), its `Views`) -> (shard, `Known`)."""

    def __init__(self, articles: TableFile) -> None:
        self._articles = articles
        self._hours: tuple[HourSums, Hours] | None = None

    def setup(self) -> None:
        """Read the table once."""
        self._table = self._articles.load()

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
    faults = [[(fault.line, fault.field, fault.message) for fault in row] for row in rows.faults(Path())]
    text = json.dumps({"lines": rows.lines, "form": rows.form, "rejected": faults})

    def write(path: Path) -> None:
        path.write_text(text, "utf-8")

    write_whole(address, _REPORT_FILE, write)


def _reported(report: dict[str, Any], task: LogTask) -> tuple[int, LogForm | None]:
    """Reports what the workers rejected to the task's policy, as if one reader had read the log.

    Returns:
        The number of usable rows, and their form.
    """
    for faults in report["rejected"]:
        task.policy.reject([Fault(str(task.log), *fault) for fault in faults])
    if not report["lines"] and not report["rejected"]:
        task.policy.reject([Fault(str(task.log), 0, "file", EMPTY)])
    usable: int = report["lines"] - len(report["rejected"])
    require_rows(task.log, usable, task.policy)
    return usable, LogForm(*report["form"]) if report["form"] else None
