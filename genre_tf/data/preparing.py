"""Writes prepared folders, whole or not at all: a log as columns, and the examples of an earlier run.

A log is read once, block by block; then the counters are filled in. The examples of an earlier run are
trained on again, and show what a model forgets.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.config import SignalsConfig
from genre_tf.data.approved_texts import TEXTS, read_texts, write_texts
from genre_tf.data.articles import ArticleTable, write_articles
from genre_tf.data.beam.runners import Runner
from genre_tf.data.click_log import block_of, newest_known
from genre_tf.data.columns import Block, BlockFile, ImpressionColumns, ends_of, write_block
from genre_tf.data.counters import COUNTERS, Counters, count_log, epoch_seconds, epoch_time
from genre_tf.data.learning_texts import first_shown_in
from genre_tf.data.lines import FaultPolicy, decoded, find_file, read_blocks
from genre_tf.data.mind import BehaviorsRow, LogForm, parse_time, read_news, require_rows, split_files
from genre_tf.data.prepared import (
    ARTICLES_FILE,
    COUNTERS_FILE,
    FORMAT,
    MANIFEST_FILE,
    SPLITS,
    Manifest,
    contents,
    file_fingerprint,
    first_of_validation,
    in_validation,
    is_current,
    is_prepared,
    load_manifest,
    read_articles,
    read_examples,
    shard_name,
    write_manifest,
)
from genre_tf.data.signals import DEFAULTS
from genre_tf.errors import InputError
from genre_tf.files import whole_folder

PREPARED_FOLDER = "prepared"
OLDER_FOLDER = "older"
_UNLEARNED = "unlearned"

SHARD_IMPRESSIONS = 1 << 16
"""Impressions of a file: some 100 MB, which one worker holds while it writes them."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did: the manifest of the folder, and whether anything had to be written."""

    manifest: Manifest
    written: bool


def prepare(
    data: Path,
    out: Path,
    *,
    max_history: int = 50,
    validation_share: float = 0.1,
    max_bad_rows: int = 0,
    overwrite: bool = False,
    runner: Runner | None = None,
    signals: SignalsConfig = DEFAULTS,
    counters_from: Path | None = None,
) -> Prepared:
    """Turns the training log of a MIND-format data set into columns.

    The same data and settings give the same bytes in every file, with any runner. The newest part of the log
    is held out for validation; `counters.npz` holds the counters as of the end of the whole log.

    Args:
        data: folder of the data set, with a `train` folder in it, which may have approved texts too.
        out: folder to write; not changed if it is up to date.
        max_history: newest clicks kept of each history.
        validation_share: newest share of the impressions, held out for validation.
        max_bad_rows: faulty rows that may be skipped.
        overwrite: replace a prepared folder that is out of date.
        runner: the Beam runner that reads the log and writes the columns; None does it in this process.
        signals: how dwell time, comments and shares become weights, where the log has them.
        counters_from: `counters.npz` of an earlier log, which these counters continue; not with a runner.

    Returns:
        The manifest, and whether anything was written.

    Raises:
        InputError: faulty data or settings; a log without labels, too small to split or not entirely later
            than the earlier one; or an `out` that holds something else.
        FailureError: `out` cannot be written, or the runner failed.
    """
    settings = _checked_settings(max_history, validation_share, signals)
    if runner is not None:
        runner.require()
        if counters_from is not None:
            raise InputError(
                "a Beam runner cannot continue the counters of an earlier log: prepare this log without "
                "--runner"
            )
    news, behaviors = split_files(data, "train")
    approved = find_file(news.parent, TEXTS)
    files = (news, behaviors, *([approved] if approved else []))
    inputs = {str(path.relative_to(data)): file_fingerprint(path) for path in files}
    earlier = None
    if counters_from is not None:
        earlier = Counters.load(counters_from)
        inputs["earlier counters"] = file_fingerprint(counters_from)
    if is_current(out, settings, inputs, max_bad_rows):
        return Prepared(load_manifest(out), written=False)
    _require_free(out, overwrite)
    policy = FaultPolicy.allowing(max_bad_rows)
    table = ArticleTable(read_news(news, policy).values())
    task = LogTask(behaviors, table, policy, max_history, validation_share, signals, earlier)
    with whole_folder(out) as folder:
        write_articles(folder / ARTICLES_FILE, table.articles[1:])
        if approved and (texts := read_texts(approved, table.known_ids, policy)):
            write_texts(folder / TEXTS, texts)
        if runner is None:
            written = write_log(task, folder)
        else:
            from genre_tf.data.beam.prepare import write_log_with_beam

            written = write_log_with_beam(task, folder, runner)
        train = written["splits"]["train"]
        if not train["clicks"]:
            raise InputError(
                f"none of the {train['impressions']} impressions of {behaviors.parent} to train on has a "
                "click (as in N1-1), so there is nothing to learn; give a log with clicks"
            )
        # Paths inside the data set, so that equal data give equal manifests.
        faults = [{**asdict(one), "file": str(Path(one.file).relative_to(data))} for one in policy.faults]
        found = {"bad_rows": policy.bad_rows, "faults": faults}
        manifest = _manifest(settings, inputs, found, table, written)
        return Prepared(write_manifest(manifest, folder), written=True)


def _checked_settings(max_history: int, validation_share: float, signals: SignalsConfig) -> dict[str, Any]:
    if max_history < 1:
        raise InputError(f"--max-history must be at least 1; got {max_history}")
    if not 0 <= validation_share < 1:
        raise InputError(f"--validation-share must be at least 0 and below 1; got {validation_share}")
    settings: dict[str, Any] = {"max_history": max_history, "validation_share": validation_share}
    if signals != DEFAULTS:  # else left out, so that folders prepared without it are still up to date
        settings["signals"] = asdict(signals)
    return settings


def _require_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_prepared(out):
        raise InputError(f"{out} exists and is not a prepared folder; give a new one")
    if not overwrite:
        raise InputError(f"{out} was prepared from other data or settings; give --overwrite to replace it")


def _manifest(
    settings: Manifest, inputs: dict[str, str], further: Manifest, table: ArticleTable, written: Manifest
) -> Manifest:
    articles = {"articles": len(table) - 1, "article_table": table.fingerprint}
    return {"format": FORMAT, "settings": settings, "inputs": inputs, **further, **articles, **written}


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


def write_log(task: LogTask, folder: Path) -> Manifest:
    """Writes a log as columns into a folder, and the counters as of its end.

    Raises:
        InputError: more faults than the policy allows, or a log that cannot be trained on.
        OSError: the folder cannot be written.
    """
    reader = BlockReader(task)
    shards = 0
    for block in _regrouped(reader.blocks(), SHARD_IMPRESSIONS):
        unknown = np.zeros((len(block.candidates), len(COUNTERS)), np.float32)
        write_block(folder / shard_name(shards), replace(block, counters=unknown))
        shards += 1
    columns = ImpressionColumns([BlockFile(folder / shard_name(each), True) for each in range(shards)])
    begins = judged(reader.form, columns.seconds, task)
    counters = Counters() if task.earlier is None else task.earlier.copy()
    count_log(columns, task.table, counters)
    counters.save(folder / COUNTERS_FILE)
    return contents(columns, shards, begins)


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


@dataclass(frozen=True)
class OlderExamples:
    """Examples that a run takes over from an earlier one."""

    table: ArticleTable  # the articles of the new log, in their rows, then the others that these examples use
    train: ImpressionColumns  # examples to learn again
    validation: ImpressionColumns  # every example that the earlier run held out
    unlearned: frozenset[int]  # rows of the articles that only its held-out examples show


def write_older(run: Path, earlier_run: Path, replay_share: float, seed: int) -> None:
    """Draw examples of an earlier run into `run/older`, a prepared folder; not changed if it is up to date.

    They are drawn evenly from the training examples of the earlier run, which may itself be such a mixture.
    At a share of one half, the share of a past day halves with each new day, and the folder does not grow.
    They are numbered after those of the new log, so that a number identifies one impression of a run.

    Args:
        run: the new run, its log prepared.
        earlier_run: the run that it continues.
        replay_share: share of old examples in the training examples of both; at least 0 and below 1.
        seed: random seed of the draw.

    Raises:
        InputError: a wrong share, or the earlier run lost its prepared examples.
        FailureError: the folder cannot be written.
    """
    if not 0 <= replay_share < 1:
        raise InputError(f"--replay must be at least 0 and below 1; got {replay_share}")
    sources = [earlier_run / PREPARED_FOLDER]
    if (earlier_run / OLDER_FOLDER).is_dir():
        sources.append(earlier_run / OLDER_FOLDER)
    new = load_manifest(run / PREPARED_FOLDER)
    settings = {"replay_share": replay_share, "seed": seed}
    inputs = {f"new {PREPARED_FOLDER}": file_fingerprint(run / PREPARED_FOLDER / MANIFEST_FILE)}
    for folder in sources:
        load_manifest(folder)
        inputs[f"earlier {folder.name}"] = file_fingerprint(folder / MANIFEST_FILE)
    if is_current(run / OLDER_FOLDER, settings, inputs, max_bad_rows=0):
        return
    learned = ImpressionColumns([])
    for folder in sources:
        learned += read_examples(folder, SPLITS[0])
    counts = [new["splits"][split]["impressions"] for split in SPLITS]
    most = round(counts[0] * replay_share / (1 - replay_share))
    drawn = learned
    if len(learned) > most:
        drawn = learned[np.sort(np.random.default_rng(seed).choice(len(learned), most, replace=False))]
    held_out = read_examples(sources[0], SPLITS[1])
    examples = drawn + held_out
    known = read_articles(sources[-1])  # the table of the last folder has the rows of both
    further = (known.articles[row] for row in examples.articles("history", "candidates") if row)
    table = ArticleTable.of(read_articles(run / PREPARED_FOLDER).articles[1:], further)
    row_of = table.rows(known.news_ids)
    unlearned = sorted(known.news_ids[row] for row in first_shown_in(held_out, learned))
    with whole_folder(run / OLDER_FOLDER) as folder:
        write_articles(folder / ARTICLES_FILE, table.articles[1:])
        shards, number = 0, sum(counts)
        for block in examples.blocks(size=SHARD_IMPRESSIONS):
            moved = replace(
                block,
                impression=np.arange(number, number + len(block)),
                history=row_of[block.history],
                candidates=row_of[block.candidates],
            )
            write_block(folder / shard_name(shards), moved)
            shards, number = shards + 1, number + len(block)
        begins = load_manifest(sources[0])["validation_seconds"]
        written = contents(examples, shards, begins)
        write_manifest(_manifest(settings, inputs, {_UNLEARNED: unlearned}, table, written), folder)


def read_older(run: Path) -> OlderExamples:
    """Read what `write_older` wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    folder = run / OLDER_FOLDER
    table = read_articles(folder)
    train, validation = (read_examples(folder, split) for split in SPLITS)
    unlearned = table.rows(load_manifest(folder)[_UNLEARNED]).tolist()
    return OlderExamples(table, train, validation, frozenset(unlearned))
