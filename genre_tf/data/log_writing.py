"""Writes a log as columns in one process: reads it once, block by block, and then fills in the counters."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import Block, BlockFile, ImpressionColumns, ends_of, write_block
from genre_tf.data.counters import COUNTERS, Counters, epoch_seconds, epoch_time
from genre_tf.data.examples import block_of, first_of_validation, newest_known
from genre_tf.data.lines import FaultPolicy, decoded, read_blocks
from genre_tf.data.manifest import COUNTERS_FILE, SPLITS, shard_name
from genre_tf.data.mind import BehaviorsRow, LogForm, parse_time, require_rows
from genre_tf.data.signals import DEFAULTS
from genre_tf.data.view_log import ColumnLog
from genre_tf.errors import InputError

SHARD_IMPRESSIONS = 1 << 16
"""Impressions of a file: some 100 MB, which one worker holds while it writes them."""


@dataclass(frozen=True)
class LogTask:
    """A log, and how to prepare it."""

    log: Path  # the behaviours file
    table: ArticleTable  # every article of the split's news file
    policy: FaultPolicy  # what to do with faulty rows; gets the faults
    max_history: int  # newest clicks kept of each history
    validation_share: float  # newest share of the impressions, held out for validation
    signals: SignalsConfig = DEFAULTS  # how dwell time, comments and shares become weights
    earlier: Counters | None = None  # counters as of the end of an earlier log, if there is one


@dataclass
class SplitSummary:
    """Counts of one split; the manifest has the fields in this order."""

    impressions: int = 0
    candidates: int = 0  # shown articles of all of them
    clicks: int = 0
    first_hours: float | None = None  # time of the oldest impression, in hours since 1970
    last_hours: float | None = None  # time of the newest impression


@dataclass
class LogSummary:
    """What was written of a log."""

    shards: int  # number of files
    signals: bool = False  # whether the log has signals
    validation_seconds: int | None = None  # when validation begins, since 1970; None: nothing is held out
    splits: dict[str, SplitSummary] = field(default_factory=lambda: {name: SplitSummary() for name in SPLITS})

    def add(self, columns: ImpressionColumns) -> Self:
        """Adds impressions to the splits in which they are."""
        for block in columns.blocks("candidates", "labels"):
            held_out = in_validation(block.seconds, self.validation_seconds)
            shown = np.diff(block.candidate_ends)
            for name, chosen in zip(SPLITS, (~held_out, held_out), strict=True):
                if chosen.any():
                    split, hours = self.splits[name], block.seconds[chosen] / 3600
                    split.impressions += int(chosen.sum())
                    split.candidates += int(shown[chosen].sum())
                    split.clicks += int(block.labels[np.repeat(chosen, shown)].sum())
                    times = [hours.min(), hours.max(), split.first_hours, split.last_hours]
                    known = [float(each) for each in times if each is not None]
                    split.first_hours, split.last_hours = min(known), max(known)
        return self

    def as_values(self) -> dict[str, Any]:
        """The summary as plain values for the manifest."""
        return {
            "shards": self.shards,
            "validation_seconds": self.validation_seconds,
            "splits": {name: asdict(self.splits[name]) for name in SPLITS},
            **({"signals": True} if self.signals else {}),
        }

    def require_clicks(self, folder: Path) -> None:
        """Refuses a log whose training part has no click; `folder`, of the split, is for the message."""
        train = self.splits[SPLITS[0]]
        if not train.clicks:
            raise InputError(
                f"none of the {train.impressions} impressions of {folder} to train on has a click (as in "
                "N1-1), so there is nothing to learn; give a log with clicks"
            )


def in_validation(seconds: Any, begins: int | None) -> Any:
    """Whether impressions are held out: seconds int64 [n], begin of validation -> bool [n]."""
    return np.full(len(seconds), False) if begins is None else seconds >= begins


def write_log(task: LogTask, folder: Path) -> LogSummary:
    """Writes a log as columns into a folder, and the counters as of its end.

    Raises:
        InputError: more faults than the policy allows, or a log that cannot be trained on.
        OSError: the folder cannot be written.
    """
    reader = BlockReader(task)
    shards = 0
    for block in _regrouped(reader.blocks(), SHARD_IMPRESSIONS):
        counters = np.zeros((len(block.candidates), len(COUNTERS)), np.float32)
        write_block(folder / shard_name(shards), replace(block, counters=counters))
        shards += 1
    columns = ImpressionColumns([BlockFile(folder / shard_name(each), True) for each in range(shards)])
    begins = judged(reader.form, columns.seconds, task)
    earlier = None if task.earlier is None else task.earlier.state(task.table.news_ids)
    log = ColumnLog(columns, len(task.table), earlier, task.table.published)
    for numbers, known in log.known():
        columns.fill_counters(numbers, known)
    after = Counters() if task.earlier is None else task.earlier.copy()
    after.replace(task.table.news_ids, log.hours.state())
    after.save(folder / COUNTERS_FILE)
    signals = reader.form is not None and reader.form.signals
    return LogSummary(shards, signals, begins).add(columns)


def judged(form: LogForm | None, seconds: Any, task: LogTask) -> int | None:
    """When validation begins; see `first_of_validation`.

    Args:
        form: form of the log; None if no row is usable.
        seconds: int64 [n], times of all impressions.
        task: the log and its settings.

    Raises:
        InputError: the log cannot be trained on: it has no labels, is not later than the log that it
            continues, or is too small to split.
    """
    folder = task.log.parent
    if form is None or not form.labelled:
        raise InputError(
            f"the log of {folder} has no clicks to learn from; label its articles, as in N1-0 N2-1"
        )
    newest = None if task.earlier is None else task.earlier.newest
    first = epoch_time(int(seconds.min()))
    if newest is not None and first <= newest:
        raise InputError(
            f"the log of {folder} begins at {first}, but the earlier log that it continues ends at "
            f"{newest}: give a log that begins after it"
        )
    begins = first_of_validation(seconds, task.validation_share)
    if in_validation(seconds, begins).all():
        raise InputError(
            f"a validation share of {task.validation_share} leaves none of the {len(seconds)} impressions to "
            "train on; give a longer log or a smaller share"
        )
    return begins


class BlockReader:
    """Reads a behaviours file as columns, some thousand rows at a time.

    Rows are parsed together where all of them are as MIND writes them; a block with any other row is read row
    by row, so faults are found and reported as `genre_tf.data.mind.iterate_behaviors` does. `seen` and
    `form` are the ids and the form of the rows taken before.
    """

    def __init__(self, task: LogTask, seen: Iterable[str] = (), form: LogForm | None = None) -> None:
        self._task = task
        self._rows = BehaviorsRow(str(task.log), task.table.known_ids)
        self._rows.seen |= set(seen)
        self._rows.form = form
        known = task.table.known_ids
        # A candidate as it is written, with its label: row and label as one number.
        self._code_of = {
            f"{news_id}-{label}": 2 * row + label
            for row, news_id in enumerate(task.table.news_ids)
            for label in (0, 1)
            if row and f"{news_id}-{label}" not in known
        }
        self._taken = 0

    @property
    def form(self) -> LogForm | None:
        """Form of the rows taken so far; None if there are none."""
        return self._rows.form

    def blocks(self) -> Iterator[Block]:
        """The usable rows of the file, in their order, without counters."""
        policy, log = self._task.policy, self._task.log
        for first, lines, fault in read_blocks(log):
            yield self.read(first, lines)
            if fault is not None:
                policy.reject([fault])
        require_rows(log, self._taken, policy)

    def read(self, first: int, lines: list[bytes]) -> Block:
        """The usable rows among some lines, of which `first` is the number of the first."""
        block = self._together(lines)
        if not block:
            task = self._task
            texts = decoded(task.log, first, lines, task.policy)
            rows = (self._rows.read(number, text, task.policy) for number, text in texts)
            found = [row for row in rows if row is not None]
            block = block_of(found, task.table, task.max_history, first=self._taken, signals=task.signals)
        self._taken += len(block)
        return block

    def _together(self, lines: list[bytes]) -> Block | None:
        """The rows as columns; None if any row may be faulty or has signals."""
        raw = b"".join(lines)
        if b"\r" in raw or b"\0" in raw or raw.startswith(b"\xef\xbb\xbf"):
            return None
        try:
            fields = [line.split("\t") for line in raw.decode("utf-8").removesuffix("\n").split("\n")]
        except UnicodeDecodeError:
            return None
        if len(fields) != len(lines) or any(len(row) != 5 for row in fields):
            return None
        if self.form not in (None, LogForm(labelled=True, signals=False)):
            return None
        ids, users, times, reads, shows = map(list, zip(*fields, strict=True))
        new = set(ids)
        if any(" ".join(words).split() != words for words in (ids, users)):  # see `id_fault`
            return None
        if len(new) < len(ids) or not new.isdisjoint(self._rows.seen):
            return None
        moments = [parse_time(time) for time in times]
        tokens, reading = ([text.split() for text in texts] for texts in (shows, reads))
        history = self._task.table.rows(list(chain.from_iterable(reading)))
        if None in moments or not history.all():
            return None
        candidate_ends = ends_of([len(row) for row in tokens])
        try:
            coded = map(self._code_of.__getitem__, chain.from_iterable(tokens))
            codes = np.fromiter(coded, np.int32, int(candidate_ends[-1]))
        except KeyError:
            return None
        of_row = np.repeat(np.arange(len(tokens)) << 32, np.diff(candidate_ends)) + (codes >> 1)
        of_row.sort()
        if not all(tokens) or (of_row[1:] == of_row[:-1]).any():  # empty, or an article twice
            return None
        self._rows.seen |= new
        self._rows.form = LogForm(labelled=True, signals=False)
        ends = ends_of([len(ids) for ids in reading])
        kept, history_ends = newest_known(history, ends, self._task.max_history)
        return Block(
            impression=np.arange(self._taken, self._taken + len(ids)),
            seconds=np.array([epoch_seconds(moment) for moment in moments if moment], np.int64),
            user_id=users,
            history_ends=history_ends,
            history=history[kept],
            candidate_ends=candidate_ends,
            candidates=codes >> 1,
            labels=(codes & 1).astype(np.uint8),
            counters=np.zeros((0, len(COUNTERS)), np.float32),
        )


def _regrouped(blocks: Iterator[Block], size: int) -> Iterator[Block]:
    """The same impressions in blocks of `size`, and a last one that may be smaller; without counters."""
    names = ("user_id", "history", "candidates", "labels", "history_weights", "label_weights")
    held = ImpressionColumns([])
    waiting: list[Block] = []
    for block in blocks:
        waiting.append(block)
        held = ImpressionColumns(waiting)
        while len(held) >= size:
            yield held.take(np.arange(size), *names)
            waiting = [held.take(np.arange(size, len(held)), *names)]
            held = ImpressionColumns(waiting)
    if len(held):
        yield held.take(np.arange(len(held)), *names)
