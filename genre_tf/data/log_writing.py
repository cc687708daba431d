"""Writes a log as example files in one process, which reads it twice and never holds all of it."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import ArticleTable, Impression
from genre_tf.data.counters import Counters, epoch_seconds, epoch_time
from genre_tf.data.examples import build_example, first_of_validation
from genre_tf.data.faults import FaultPolicy
from genre_tf.data.log_summary import LogSummary, SplitSummary, require_labels, require_training
from genre_tf.data.logged_views import LoggedViews
from genre_tf.data.manifest import COUNTERS_FILE, SPLITS, shard_name, shard_of
from genre_tf.data.mind import iterate_behaviors
from genre_tf.data.mind_rows import LogForm
from genre_tf.data.signals import DEFAULTS
from genre_tf.errors import InputError

OPEN_SHARDS = 128
"""Shards of each split written in one reading of the log: a process may open some 1000 files."""


@dataclass(frozen=True)
class LogTask:
    """A log, and how to prepare it.

    Args:
        log: the behaviours file.
        table: every article of the split's news file.
        policy: what to do with faulty rows; gets the faults.
        max_history: newest clicks kept of each history.
        validation_share: newest share of the impressions, held out for validation.
        shards: files per split (training, validation).
        signals: how dwell time, comments and shares become weights.
        earlier: counters as of the end of an earlier log; None: there is no earlier log.
    """

    log: Path
    table: ArticleTable
    policy: FaultPolicy
    max_history: int
    validation_share: float
    shards: int
    signals: SignalsConfig = DEFAULTS
    earlier: Counters | None = None


def write_log(task: LogTask, folder: Path) -> LogSummary:
    """Writes the shards of both splits, and the counters as of the end of the log.

    The first reading finds faults, times and counters; the next one makes the examples.

    Args:
        task: the log, and how to prepare it.
        folder: where to write.

    Returns:
        What was written.

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
    _require_later(task, int(seconds.min()))
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


def _require_later(task: LogTask, first: int) -> None:
    newest = None if task.earlier is None else task.earlier.newest
    if newest is not None and epoch_time(first) <= newest:
        raise InputError(
            f"the log of {task.log.parent} begins at {epoch_time(first)}, but the earlier log that it "
            f"continues ends at {newest}: give a log that begins after it"
        )


def _impressions(task: LogTask, policy: FaultPolicy) -> Iterator[Impression]:
    return iterate_behaviors(task.log, task.table.known_ids, policy)
