"""Writes a log as example files in one process, which reads it twice and never holds all of it."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import ArticleTable, Impression
from genre_tf.data.counters import COUNTERS, Counters, epoch_seconds, epoch_time
from genre_tf.data.examples import ImpressionExample, build_example, first_of_validation
from genre_tf.data.faults import FaultPolicy
from genre_tf.data.manifest import COUNTERS_FILE, SPLITS, shard_name, shard_of
from genre_tf.data.mind import iterate_behaviors
from genre_tf.data.mind_rows import LogForm
from genre_tf.data.signals import DEFAULTS
from genre_tf.data.view_log import ViewLog
from genre_tf.errors import InputError

OPEN_SHARDS = 128
"""Shards of each split written in one reading of the log: a process may open some 1000 files."""

_BLOCK_IMPRESSIONS = 4096
"""Impressions whose counters are looked up together: one by one takes many times as long."""


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split, added up in any order; the manifest has the fields in this order."""

    impressions: int = 0
    candidates: int = 0  # shown articles of all impressions
    clicks: int = 0
    first_hours: float | None = (
        None  # time of the oldest impression, in hours since 1970; None if there is none
    )
    last_hours: float | None = None  # time of the newest impression

    @classmethod
    def of(cls, example: ImpressionExample) -> Self:
        """The summary of one example."""
        time = example.time_hours
        return cls(1, len(example.candidates), int(example.labels.sum()), time, time)

    @classmethod
    def merged(cls, summaries: Iterable["SplitSummary"]) -> Self:
        """The sum of several summaries."""
        parts = list(summaries)
        firsts = [one.first_hours for one in parts if one.first_hours is not None]
        lasts = [one.last_hours for one in parts if one.last_hours is not None]
        return cls(
            sum(one.impressions for one in parts),
            sum(one.candidates for one in parts),
            sum(one.clicks for one in parts),
            min(firsts, default=None),
            max(lasts, default=None),
        )


@dataclass(frozen=True)
class LogSummary:
    """Summary of a whole log."""

    splits: Mapping[str, SplitSummary]  # by name; a split without examples may be missing
    signals: bool = False  # whether the log has signals

    def as_values(self) -> dict[str, dict[str, Any]]:
        """The splits as plain values for the manifest."""
        return {name: asdict(self.splits.get(name, SplitSummary())) for name in SPLITS}


def require_labels(labelled: bool, folder: Path) -> None:
    """Refuses a log without labels with an `InputError`; `folder` is that of the split, for the message."""
    if not labelled:
        raise InputError(
            f"the log of {folder} has no clicks to learn from; label its articles, as in N1-0 N2-1"
        )


def require_clicks(summary: LogSummary, folder: Path) -> None:
    """Refuses a log whose training part has no click with an `InputError`."""
    train = summary.splits.get(SPLITS[0], SplitSummary())
    if not train.clicks:
        raise InputError(
            f"none of the {train.impressions} impressions of {folder} to train on has a click (as in N1-1), "
            "so there is nothing to learn; give a log with clicks"
        )


def require_training(impressions: int, to_train_on: int, validation_share: float) -> None:
    """Refuses a log of which no impression is left to train on with an `InputError`."""
    if not to_train_on:
        raise InputError(
            f"a validation share of {validation_share} leaves none of the {impressions} impressions to train "
            "on; give a longer log or a smaller share"
        )


@dataclass(frozen=True)
class LogTask:
    """A log, and how to prepare it."""

    log: Path  # the behaviours file
    table: ArticleTable  # every article of the split's news file
    policy: FaultPolicy  # what to do with faulty rows; gets the faults
    max_history: int  # newest clicks kept of each history
    validation_share: float  # newest share of the impressions, held out for validation
    shards: int  # files per split (training, validation)
    signals: SignalsConfig = DEFAULTS  # how dwell time, comments and shares become weights
    earlier: Counters | None = None  # as of the end of an earlier log; None: there is no earlier log


class LoggedViews:
    """Collects a log's views in order, about 30 bytes each, and computes their counters.

    These are equal to those of `impression_counters`.

    Args:
        table: every article of the log, with its publishing time if it is known.
        earlier: state before the log, with only older events; None: empty.
    """

    def __init__(self, table: ArticleTable, earlier: Counters | None = None) -> None:
        self._table, self._earlier = table, earlier or Counters()
        self._seconds = array("q")
        self._ends = array("q", [0])
        self._rows = array("i")
        self._clicked = bytearray()
        self._log: ViewLog | None = None
        self._block, self._known = -1, np.zeros((0, len(COUNTERS)), np.float32)

    def add(self, impression: Impression) -> None:
        """Takes the next impression of the log."""
        self._seconds.append(epoch_seconds(impression.time))
        self._rows.frombytes(self._table.rows(impression.candidates).tobytes())
        self._clicked.extend(impression.clicked or bytes(len(impression.candidates)))
        self._ends.append(len(self._rows))

    @property
    def seconds(self) -> npt.NDArray[np.int64]:
        """Times of the impressions since 1970, int64 [I]."""
        return np.frombuffer(self._seconds, np.int64)

    def count(self) -> Counters:
        """Counts the log, once all impressions are in: the counters as of its end."""
        table, earlier = self._table, self._earlier
        rows, clicked = np.frombuffer(self._rows, np.int32), np.frombuffer(self._clicked, np.uint8)
        known = earlier.state(table.news_ids)
        self._log = ViewLog(
            len(table), rows, self._seconds_of(0, len(self._seconds)), clicked, known, table.published
        )
        self._block = -1
        counters = earlier.copy()
        counters.replace(table.news_ids, self._log.state())
        return counters

    def known_before(self, number: int) -> npt.NDArray[np.float32]:
        """Counters of an impression's candidates just before it, quickest in the order of the log.

        Returns:
            float32 [C, 9], in the order of `COUNTERS`. Call `count` first.
        """
        if self._log is None:
            raise ValueError("count() comes before known_before()")
        block = number // _BLOCK_IMPRESSIONS
        begins = block * _BLOCK_IMPRESSIONS
        if block != self._block:
            stop = min(begins + _BLOCK_IMPRESSIONS, len(self._seconds))
            rows = np.frombuffer(self._rows, np.int32)[self._ends[begins] : self._ends[stop]]
            self._block, self._known = block, self._log.before(rows, self._seconds_of(begins, stop))
        start, stop = (self._ends[each] - self._ends[begins] for each in (number, number + 1))
        return self._known[start:stop]

    def _seconds_of(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The time of every view of some impressions."""
        return np.repeat(self.seconds[start:stop], np.diff(self._ends[start : stop + 1]))


def write_log(task: LogTask, folder: Path) -> LogSummary:
    """Writes the shards of both splits, and the counters as of the end of the log, into a folder.

    The first reading finds faults, times and counters; the next one makes the examples.

    Raises:
        InputError: more faults than the policy allows, or a log that cannot be trained on.
        OSError: the folder cannot be written.
    """
    views, labelled, signals = LoggedViews(task.table, task.earlier), False, False
    for impression in _impressions(task, task.policy):
        views.add(impression)
        labelled, signals = LogForm.of(impression)
    require_labels(labelled, task.log.parent)
    seconds = views.seconds
    newest, oldest = None if task.earlier is None else task.earlier.newest, epoch_time(int(seconds.min()))
    if newest is not None and oldest <= newest:
        raise InputError(
            f"the log of {task.log.parent} begins at {oldest}, but the earlier log that it continues ends at "
            f"{newest}: give a log that begins after it"
        )
    begins = first_of_validation(seconds, task.validation_share)
    to_train_on = len(seconds) if begins is None else int(np.count_nonzero(seconds < begins))
    require_training(len(seconds), to_train_on, task.validation_share)
    views.count().save(folder / COUNTERS_FILE)
    summaries = dict.fromkeys(SPLITS, SplitSummary())
    for start in range(0, task.shards, OPEN_SHARDS):
        shards = range(start, min(start + OPEN_SHARDS, task.shards))
        _write_shards(task, folder, shards, views, begins, summaries)
    return LogSummary(summaries, signals)


def _write_shards(
    task: LogTask,
    folder: Path,
    shards: range,
    views: LoggedViews,
    begins: int | None,
    summaries: dict[str, SplitSummary],
) -> None:
    from genre_tf.data.serialization import example_record, record_writer

    train, validation = SPLITS
    with ExitStack() as files:
        write = {
            (split, shard): files.enter_context(record_writer(folder / shard_name(split, shard, task.shards)))
            for split in SPLITS
            for shard in shards
        }
        # The first reading reported the faults.
        for number, impression in enumerate(_impressions(task, FaultPolicy(None))):
            shard = shard_of(number, task.shards)
            if shard not in shards:
                continue
            known = views.known_before(number)
            example = build_example(number, impression, task.table, known, task.max_history, task.signals)
            split = train if begins is None or epoch_seconds(impression.time) < begins else validation
            write[split, shard](example_record(example))
            summaries[split] = SplitSummary.merged((summaries[split], SplitSummary.of(example)))


def _impressions(task: LogTask, policy: FaultPolicy) -> Iterator[Impression]:
    return iterate_behaviors(task.log, task.table.known_ids, policy)
