"""Prepared folders: a training log as TFRecord shards beside a manifest, written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.counters import Counters
from genre_tf.data.examples import ImpressionExample, build_examples, split_by_time
from genre_tf.data.manifest import (
    FORMAT,
    MANIFEST_FILE,
    Manifest,
    fault_rows,
    input_fingerprints,
    is_current,
    load_manifest,
    output_fingerprints,
    write_manifest,
)
from genre_tf.data.mind import read_split
from genre_tf.data.serialization import (
    ARTICLES_FILE,
    article_record,
    example_record,
    parse_article,
    parse_example,
    shard_name,
    shard_of,
)
from genre_tf.errors import FailureError, InputError

COUNTERS_FILE = "counters.npz"
READ_TOGETHER = 1024
"""Records handed from TensorFlow to Python at once; one by one takes many times as long."""

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did.

    Args:
        manifest: see `load_manifest`.
        written: False where the folder was up to date already and was left alone.
    """

    manifest: Manifest
    written: bool


def prepare(
    data: Path,
    out: Path,
    *,
    max_history: int = 50,
    validation_share: float = 0.1,
    shards: int = 4,
    max_bad_rows: int = 0,
    overwrite: bool = False,
) -> Prepared:
    """Turns the training log of a MIND-format data set into examples.

    The same data and settings give the same bytes in every file. The newest part of the log is kept apart for
    validation; `counters.npz` holds the counters as of the end of the whole log.

    Args:
        data: folder of the data set, with a `train` folder in it.
        out: folder to write; left alone if it is up to date.
        max_history: newest clicks kept of each history.
        validation_share: newest share of the impressions, kept apart for validation.
        shards: files for each of training and validation.
        max_bad_rows: faulty rows that may be skipped.
        overwrite: replace a prepared folder that is out of date.

    Returns:
        The manifest, and whether anything was written.

    Raises:
        InputError: faulty data or settings, a log without labels or too small to split, or an `out` that is
            taken.
        FailureError: `out` cannot be written.
    """
    _check_settings(max_history, validation_share, shards)
    settings = {
        "max_history": max_history,
        "validation_share": validation_share,
        "shards": shards,
        "max_bad_rows": max_bad_rows,
    }
    inputs = input_fingerprints(data, "train")
    if is_current(out, settings, inputs):
        return Prepared(load_manifest(out), written=False)
    _require_free(out, overwrite)
    split = read_split(data, "train", max_bad_rows)
    if not split.labelled:
        raise InputError(f"the log of {data / 'train'} has no clicks to learn from; give N1-0 N2-1 labels")
    table, counters = ArticleTable.of(split), Counters()
    examples = split_by_time(build_examples(split, table, counters, max_history), validation_share)
    if not examples[0]:
        raise InputError(
            f"{len(split.impressions)} impressions leave none to train on beside a validation share of "
            f"{validation_share}; give a longer log or a smaller share"
        )
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "inputs": inputs,
        "articles": len(table) - 1,
        "article_table": table.fingerprint,
        "splits": dict(zip(SPLITS, map(_summary, examples), strict=True)),
        "bad_rows": len({(fault.file, fault.line) for fault in split.faults}),
        "faults": fault_rows(split.faults, data),
    }
    with _whole_folder(out) as folder:
        write_records(folder / ARTICLES_FILE, map(article_record, table.articles[1:]))
        for name, members in zip(SPLITS, examples, strict=True):
            write_shards(folder, name, members, shards)
        counters.save(folder / COUNTERS_FILE)
        manifest["outputs"] = output_fingerprints(folder)
        write_manifest(manifest, folder)
    return Prepared(manifest, written=True)


def read_articles(folder: Path) -> ArticleTable:
    """Reads the articles of a prepared folder.

    Args:
        folder: what `prepare` wrote.

    Returns:
        The table that the examples' rows refer to.

    Raises:
        InputError: not a prepared folder, or a damaged one.
    """
    table = ArticleTable(map(parse_article, _read_records(folder, [ARTICLES_FILE])))
    if table.fingerprint != load_manifest(folder)["article_table"]:
        raise _damaged(folder / ARTICLES_FILE)
    return table


def read_examples(folder: Path, split: str) -> list[ImpressionExample]:
    """Reads the examples of a prepared folder.

    Args:
        folder: what `prepare` wrote.
        split: `train` or `validation`.

    Returns:
        Examples in the order of the log.

    Raises:
        InputError: not a prepared folder, a damaged one, or no such split in it.
    """
    records = _read_records(folder, [path.name for path in shard_paths(folder, split)])
    return sorted(map(parse_example, records), key=lambda example: example.impression)


def shard_paths(folder: Path, split: str) -> list[Path]:
    """Paths of the shards of a split.

    Args:
        folder: what `prepare` wrote.
        split: `train` or `validation`.

    Raises:
        InputError: not a prepared folder, or no such split in it.
    """
    manifest = load_manifest(folder)
    if split not in SPLITS:
        raise InputError(f"a prepared folder holds {' and '.join(SPLITS)}, and {split!r} was asked for")
    shards = manifest["settings"]["shards"]
    return [folder / shard_name(split, shard, shards) for shard in range(shards)]


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes a TFRecord file."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def write_shards(folder: Path, split: str, examples: list[ImpressionExample], shards: int) -> None:
    """Writes the shards of a split, each in the order of the log."""
    for shard in range(shards):
        members = (example_record(example) for example in examples if shard_of(example, shards) == shard)
        write_records(folder / shard_name(split, shard, shards), members)


def _check_settings(max_history: int, validation_share: float, shards: int) -> None:
    if max_history < 1:
        raise InputError(f"--max-history is 1 or more, and {max_history} was given")
    if not 0 <= validation_share < 1:
        raise InputError(f"--validation-share is at least 0 and below 1, and {validation_share} was given")
    if not 1 <= shards <= 99_999:
        raise InputError(f"--shards is between 1 and 99999, and {shards} was given")


def _require_free(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_FILE).is_file():
        raise InputError(f"{out} exists and is no prepared folder; give a new one")
    if not overwrite:
        raise InputError(f"{out} was prepared from other data or settings; give --overwrite to replace it")


def _summary(examples: list[ImpressionExample]) -> dict[str, Any]:
    hours = [example.time_hours for example in examples]
    return {
        "impressions": len(examples),
        "candidates": sum(len(example.candidates) for example in examples),
        "clicks": int(sum(example.labels.sum() for example in examples)),
        "first_hours": min(hours, default=None),
        "last_hours": max(hours, default=None),
    }


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Gives a folder to write into that becomes `out` at the end, or is gone if anything fails."""
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    replaced = out.parent / f".{out.name}.replaced-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    except (OSError, tf.errors.OpError) as error:
        raise FailureError(
            f"{out} could not be written: {error}; check the path, its rights and the disk"
        ) from None
    finally:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _read_records(folder: Path, names: list[str]) -> Iterator[bytes]:
    load_manifest(folder)
    for name in names:
        try:
            dataset: Any = tf.data.TFRecordDataset(str(folder / name)).batch(READ_TOGETHER)
            for records in dataset.as_numpy_iterator():
                yield from records
        except (tf.errors.DataLossError, tf.errors.NotFoundError):
            raise _damaged(folder / name) from None


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is missing or damaged; run `genre prepare` again with --overwrite")
