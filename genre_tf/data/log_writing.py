"""The log of a data set as example files, written by one process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genre_tf.data.articles import ArticleTable, Split
from genre_tf.data.counters import Counters
from genre_tf.data.examples import ImpressionExample, build_examples, split_by_time
from genre_tf.data.faults import FaultPolicy
from genre_tf.data.log_summary import LogSummary, SplitSummary, require_labels, require_training
from genre_tf.data.manifest import COUNTERS_FILE, SPLITS, shard_name, shard_of
from genre_tf.data.mind import read_behaviors


@dataclass(frozen=True)
class LogTask:
    """What is to be made of a log.

    Args:
        log: the behaviours file.
        table: every article of the split's news file.
        policy: what to do with faulty rows; gets the faults.
        max_history: newest clicks kept of each history.
        validation_share: newest share of the impressions, kept apart for validation.
        shards: files for each of training and validation.
    """

    log: Path
    table: ArticleTable
    policy: FaultPolicy
    max_history: int
    validation_share: float
    shards: int


def write_log(task: LogTask, folder: Path) -> LogSummary:
    """Writes the shards of both splits, and the counters as of the end of the log.

    Args:
        task: what to make of which log.
        folder: where to write.

    Returns:
        What was written.

    Raises:
        InputError: faults that the policy does not pass, or a log that cannot be learnt from.
        OSError: the folder cannot be written.
    """
    articles = {article.news_id: article for article in task.table.articles[1:]}
    log = Split("", articles, read_behaviors(task.log, articles, task.policy), task.policy.faults)
    require_labels(log.labelled, task.log.parent)
    counters = Counters()
    examples = build_examples(log, task.table, counters, task.max_history)
    members = dict(zip(SPLITS, split_by_time(examples, task.validation_share), strict=True))
    require_training(len(examples), len(members["train"]), task.validation_share)
    for name in SPLITS:
        _write_shards(folder, name, members[name], task.shards)
    counters.save(folder / COUNTERS_FILE)
    return LogSummary({name: SplitSummary.merged(map(SplitSummary.of, members[name])) for name in SPLITS})


def _write_shards(folder: Path, split: str, examples: Sequence[ImpressionExample], shards: int) -> None:
    from genre_tf.data.serialization import example_record, write_records

    for shard in range(shards):
        members = (example for example in examples if shard_of(example.impression, shards) == shard)
        write_records(folder / shard_name(split, shard, shards), map(example_record, members))
