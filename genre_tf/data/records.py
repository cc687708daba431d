"""Prepared folders: a training log as columns with a manifest, written whole or not at all."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import ArticleTable, damaged, read_article_file, write_articles
from genre_tf.data.beam.runners import Runner
from genre_tf.data.columns import ImpressionColumns, read_columns
from genre_tf.data.counters import Counters
from genre_tf.data.lines import FaultPolicy
from genre_tf.data.log_writing import LogSummary, LogTask, in_validation, write_log
from genre_tf.data.manifest import (
    ARTICLES_FILE,
    FORMAT,
    SPLITS,
    Manifest,
    fault_rows,
    file_fingerprint,
    input_fingerprints,
    is_current,
    is_prepared,
    load_manifest,
    output_fingerprints,
    shard_name,
    write_manifest,
)
from genre_tf.data.mind import read_news, split_files
from genre_tf.data.signals import DEFAULTS
from genre_tf.errors import InputError
from genre_tf.files import whole_folder


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did.

    Args:
        manifest: see `load_manifest`.
        written: False if the folder was already up to date and was not changed.
    """

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
        data: folder of the data set, with a `train` folder in it.
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
    _require_runner(runner, counters_from)
    inputs = input_fingerprints(data, "train")
    earlier = None if counters_from is None else Counters.load(counters_from)
    if counters_from is not None:
        inputs["earlier counters"] = file_fingerprint(counters_from)
    if is_current(out, settings, inputs, max_bad_rows):
        return Prepared(load_manifest(out), written=False)
    _require_free(out, overwrite)
    news, behaviors = split_files(data, "train")
    policy = FaultPolicy.allowing(max_bad_rows)
    table = ArticleTable(read_news(news, policy).values())
    task = LogTask(behaviors, table, policy, max_history, validation_share, signals, earlier)
    manifest = {"format": FORMAT, "settings": settings, "inputs": inputs}
    return Prepared(_write_folder(out, data, task, manifest, runner), written=True)


def read_articles(folder: Path) -> ArticleTable:
    """Reads the articles of a prepared folder.

    Args:
        folder: what `prepare` wrote.

    Returns:
        The table that the examples' rows refer to.

    Raises:
        InputError: not a prepared folder, or a damaged one.
    """
    manifest = load_manifest(folder)
    table = ArticleTable(read_article_file(folder / ARTICLES_FILE))
    if table.fingerprint != manifest["article_table"]:
        raise damaged(folder / ARTICLES_FILE)
    return table


def read_examples(folder: Path, split: str) -> ImpressionColumns:
    """Maps the examples of a prepared folder into memory.

    Args:
        folder: what `prepare` wrote.
        split: `train` or `validation`.

    Returns:
        Examples in the order of the log.

    Raises:
        InputError: not a prepared folder, a damaged one, or no such split in it.
    """
    manifest = load_manifest(folder)
    if split not in SPLITS:
        raise InputError(f"the split of a prepared folder must be {' or '.join(SPLITS)}; got {split!r}")
    columns = read_columns([folder / shard_name(shard) for shard in range(manifest["shards"])])
    held_out = in_validation(columns.seconds, manifest["validation_seconds"])
    return columns[held_out if split == SPLITS[1] else ~held_out]


def _write_folder(
    out: Path, data: Path, task: LogTask, manifest: Manifest, runner: Runner | None
) -> Manifest:
    table, policy = task.table, task.policy
    with whole_folder(out) as folder:
        write_articles(folder / ARTICLES_FILE, table.articles[1:])
        summary = write_log(task, folder) if runner is None else _beam_writer()(task, folder, runner)
        summary.require_clicks(task.log.parent)
        manifest = manifest | {
            "bad_rows": policy.bad_rows,
            "faults": fault_rows(policy.faults, data),
            "articles": len(table) - 1,
            "article_table": table.fingerprint,
            **summary.as_values(),
            "outputs": output_fingerprints(folder),
        }
        write_manifest(manifest, folder)
    return manifest


def _beam_writer() -> Callable[[LogTask, Path, Runner], LogSummary]:
    from genre_tf.data.beam.prepare import write_log_with_beam

    return write_log_with_beam


def _checked_settings(max_history: int, validation_share: float, signals: SignalsConfig) -> dict[str, Any]:
    if max_history < 1:
        raise InputError(f"--max-history must be at least 1; got {max_history}")
    if not 0 <= validation_share < 1:
        raise InputError(f"--validation-share must be at least 0 and below 1; got {validation_share}")
    settings: dict[str, Any] = {"max_history": max_history, "validation_share": validation_share}
    if signals != DEFAULTS:  # else left out, so that folders prepared without it are still up to date
        settings["signals"] = asdict(signals)
    return settings


def _require_runner(runner: Runner | None, counters_from: Path | None) -> None:
    if runner is None:
        return
    runner.require()
    if counters_from is not None:
        raise InputError(
            "a Beam runner cannot continue the counters of an earlier log: prepare this log without --runner"
        )


def _require_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_prepared(out):
        raise InputError(f"{out} exists and is not a prepared folder; give a new one")
    if not overwrite:
        raise InputError(f"{out} was prepared from other data or settings; give --overwrite to replace it")
