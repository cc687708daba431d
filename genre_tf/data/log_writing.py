"""Writes a log as columns in one process: reads it once, block by block, and then fills in the counters."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import Block, BlockFile, ImpressionColumns, Rows, ends_of, write_block
from genre_tf.data.counters import COUNTERS, Counters, epoch_seconds, epoch_time
from genre_tf.data.examples import block_of, first_of_validation, newest_known
from genre_tf.data.faults import Fault, FaultPolicy
from genre_tf.data.lines import BadLine, line_text, read_blocks
from genre_tf.data.manifest import COUNTERS_FILE, SPLITS, shard_name
from genre_tf.data.mind import require_rows
from genre_tf.data.mind_rows import BehaviorsRow, LogForm, parse_time
from genre_tf.data.signals import DEFAULTS
from genre_tf.data.view_log import ColumnLog
from genre_tf.errors import InputError

SHARD_IMPRESSIONS = 1 << 16
"""Impressions of a file: some 100 MB, which one worker holds while it writes them."""


@dataclass(frozen=True)
class LogTask:
    """A log, and how to prepare it.

    Args:
        log: the behaviours file.
        table: every article of the split's news file.
        policy: what to do with faulty rows; gets the faults.
        max_history: newest clicks kept of each history.
        validation_share: newest share of the impressions, held out for validation.
        signals: how dwell time, comments and shares become weights.
        earlier: counters as of the end of an earlier log; None: there is no earlier log.
    """

    log: Path
    table: ArticleTable
    policy: FaultPolicy
    max_history: int
    validation_share: float
    signals: SignalsConfig = DEFAULTS
    earlier: Counters | None = None


@dataclass
class SplitSummary:
    """Counts of one split; the manifest has the fields in this order.

    Args:
        impressions: examples.
        candidates: shown articles of all of them.
        clicks: clicked ones.
        first_hours: time of the oldest impression, in hours since 1970; None if there is none.
        last_hours: time of the newest impression.
    """

    impressions: int = 0
    candidates: int = 0
    clicks: int = 0
    first_hours: float | None = None
    last_hours: float | None = None

    def add(self, block: Block) -> Self:
        """Adds some impressions."""
        if len(block):
            self.impressions += len(block)
            self.candidates += len(block.candidates)
            self.clicks += int(block.labels.sum())
            first, last = (int(each) / 3600 for each in (block.seconds.min(), block.seconds.max()))
            self.first_hours = first if self.first_hours is None else min(first, self.first_hours)
            self.last_hours = last if self.last_hours is None else max(last, self.last_hours)
        return self


@dataclass
class LogSummary:
    """What was written of a log.

    Args:
        shards: number of files.
        signals: whether the log has signals.
        validation_seconds: when validation begins, in seconds since 1970; None: nothing is held out.
        splits: by name.
    """

    shards: int
    signals: bool = False
    validation_seconds: int | None = None
    splits: dict[str, SplitSummary] = field(default_factory=lambda: {name: SplitSummary() for name in SPLITS})

    def add(self, columns: ImpressionColumns) -> Self:
        """Adds impressions to the splits in which they are."""
        for block in columns.blocks("candidates", "labels"):
            some = ImpressionColumns([block])
            held_out = in_validation(block.seconds, self.validation_seconds)
            for name, chosen in zip(SPLITS, (~held_out, held_out), strict=True):
                self.splits[name].add(some.take(np.flatnonzero(chosen), "candidates", "labels"))
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
        """Refuses a log whose training part has no click.

        Args:
            folder: folder of the split, for the message.

        Raises:
            InputError: nothing was clicked.
        """
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
    """Writes a log as columns, and the counters as of its end.

    Args:
        task: the log, and how to prepare it.
        folder: where to write.

    Returns:
        What was written.

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
    log = ColumnLog(columns, len(task.table), _earlier_state(task), task.table.published)
    for numbers, known in log.known():
        columns.fill_counters(numbers, known)
    counters_after(task, log).save(folder / COUNTERS_FILE)
    signals = reader.form is not None and reader.form.signals
    return LogSummary(shards, signals, begins).add(columns)


def judged(form: LogForm | None, seconds: Any, task: LogTask) -> int | None:
    """When validation begins; see `first_of_validation`.

    Args:
        form: form of the log; None if no row is usable.
        seconds: int64 [n], times of all impressions.
        task: the log.

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


def counters_after(task: LogTask, log: ColumnLog) -> Counters:
    """The counters as of the end of the log."""
    counters = Counters() if task.earlier is None else task.earlier.copy()
    counters.replace(task.table.news_ids, log.hours.state())
    return counters


def _earlier_state(task: LogTask) -> Any:
    return None if task.earlier is None else task.earlier.state(task.table.news_ids)


class BlockReader:
    """Reads a behaviours file as columns, some thousand rows at a time.

    Rows are parsed together where all of them are as MIND writes them; a block with any other row is read row
    by row, so faults are found and reported as `genre_tf.data.mind.read_behaviors` does.

    Args:
        task: the log, and how to prepare it.
        seen: ids of the impressions taken before.
        form: form of the rows taken before; None if there are none.
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
        """The usable rows of the file, in their order, without counters.

        Raises:
            InputError: the file is unusable, or the policy stops.
        """
        policy, log = self._task.policy, self._task.log
        for first, lines, fault in read_blocks(log):
            yield self.read(first, lines)
            if fault is not None:
                policy.reject([fault])
        require_rows(log, self._taken, policy)

    def read(self, first: int, lines: list[bytes]) -> Block:
        """The usable rows among some lines.

        Args:
            first: number of the first line; 1 is that of the first line of a file.
            lines: the lines with their ends.
        """
        block = self._together(lines) or self._one_by_one(first, lines)
        self._taken += len(block)
        return block

    def _one_by_one(self, first: int, lines: list[bytes]) -> Block:
        impressions = []
        for number, raw in enumerate(lines, first):
            text = line_text(raw, first=number == 1)
            if isinstance(text, BadLine):
                self._task.policy.reject([Fault(self._rows.file, number, "line", text.message)])
            elif (row := self._rows.read(number, text, self._task.policy)) is not None:
                impressions.append(row)
        task = self._task
        return block_of(impressions, task.table, task.max_history, first=self._taken, signals=task.signals)

    def _together(self, lines: list[bytes]) -> Block | None:
        """The rows as columns; None if any row may be faulty or has signals."""
        fields = _fields(lines)
        if fields is None or self.form not in (None, LogForm(labelled=True, signals=False)):
            return None
        ids, users, times, reads, shows = fields
        new = set(ids)
        if not (_are_words(ids) and _are_words(users)):
            return None
        if len(new) < len(ids) or not new.isdisjoint(self._rows.seen):
            return None
        moments = [parse_time(time) for time in times]
        shown = _codes(shows, self._code_of)
        if None in moments or shown is None:
            return None
        codes, candidate_ends = shown
        reading = [text.split() for text in reads]
        history = self._task.table.rows(list(chain.from_iterable(reading)))
        if not history.all():
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


def _fields(lines: list[bytes]) -> tuple[Sequence[str], ...] | None:
    """The five columns of some lines; None if any line is not plain UTF-8 text of five columns."""
    raw = b"".join(lines)
    if b"\r" in raw or b"\0" in raw or raw.startswith(b"\xef\xbb\xbf"):
        return None
    try:
        rows = [line.split("\t") for line in raw.decode("utf-8").removesuffix("\n").split("\n")]
    except UnicodeDecodeError:
        return None
    if len(rows) != len(lines) or any(len(row) != 5 for row in rows):
        return None
    return tuple(zip(*rows, strict=True))


def _are_words(texts: Sequence[str]) -> bool:
    """Whether every text is one word; see `genre_tf.data.mind_rows.id_fault`."""
    return " ".join(texts).split() == list(texts)


def _codes(shows: Sequence[str], code_of: dict[str, int]) -> tuple[Rows, Any] | None:
    """Codes of the candidates of some impressions, and their ends; None if any impression may be faulty."""
    tokens = [text.split() for text in shows]
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    try:
        codes = np.fromiter(
            map(code_of.__getitem__, chain.from_iterable(tokens)), np.int32, int(lengths.sum())
        )
    except KeyError:
        return None
    of_row = np.repeat(np.arange(len(tokens)) << 32, lengths) + (codes >> 1)
    of_row.sort()
    if not lengths.all() or (of_row[1:] == of_row[:-1]).any():  # empty, or an article twice
        return None
    return codes, ends_of(lengths)


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
