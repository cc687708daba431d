"""Prepared folders: a training log as TFRecord shards beside a manifest, written whole or not at all.

TensorFlow is imported where records are written or read: it takes seconds, and wrong input is told at once.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genre_tf.data.articles import ArticleTable, Split
from genre_tf.data.counters import Counters
from genre_tf.data.examples import ImpressionExample, build_examples, split_by_time
from genre_tf.data.manifest import (
    ARTICLES_FILE,
    COUNTERS_FILE,
    FORMAT,
    MANIFEST_FILE,
    SPLITS,
    Manifest,
    damaged,
    fault_rows,
    input_fingerprints,
    is_current,
    load_manifest,
    output_fingerprints,
    shard_name,
    shard_of,
    shard_paths,
    write_manifest,
)
from genre_tf.data.mind import read_split
from genre_tf.errors import FailureError, InputError


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
    settings = {"max_history": max_history, "validation_share": validation_share, "shards": shards}
    inputs = input_fingerprints(data, "train")
    if is_current(out, settings, inputs, max_bad_rows):
        return Prepared(load_manifest(out), written=False)
    _require_free(out, overwrite)
    split = read_split(data, "train", max_bad_rows)
    if not split.labelled:
        raise InputError(f"the log of {data / 'train'} has no clicks to learn from; give N1-0 N2-1 labels")
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "inputs": inputs,
        "bad_rows": len({(fault.file, fault.line) for fault in split.faults}),
        "faults": fault_rows(split.faults, data),
    }
    return Prepared(_write_folder(out, split, manifest), written=True)


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
    from genre_tf.data.serialization import parse_article, read_records

    table = ArticleTable(map(parse_article, read_records(folder / ARTICLES_FILE)))
    if table.fingerprint != manifest["article_table"]:
        raise damaged(folder / ARTICLES_FILE)
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
    paths = shard_paths(folder, split)
    from genre_tf.data.serialization import parse_example, read_records

    examples = [parse_example(record) for path in paths for record in read_records(path)]
    return sorted(examples, key=lambda example: example.impression)


def _write_folder(out: Path, split: Split, manifest: Manifest) -> Manifest:
    settings = manifest["settings"]
    table, counters = ArticleTable.of(split), Counters()
    examples = split_by_time(
        build_examples(split, table, counters, settings["max_history"]), settings["validation_share"]
    )
    if not examples[0]:
        raise InputError(
            f"{len(split.impressions)} impressions leave none to train on beside a validation share of "
            f"{settings['validation_share']}; give a longer log or a smaller share"
        )
    manifest = manifest | {
        "articles": len(table) - 1,
        "article_table": table.fingerprint,
        "splits": dict(zip(SPLITS, map(_summary, examples), strict=True)),
    }
    with _whole_folder(out) as folder:
        _write_articles(folder, table)
        for name, members in zip(SPLITS, examples, strict=True):
            _write_shards(folder, name, members, settings["shards"])
        counters.save(folder / COUNTERS_FILE)
        manifest["outputs"] = output_fingerprints(folder)
        write_manifest(manifest, folder)
    return manifest


def _write_articles(folder: Path, table: ArticleTable) -> None:
    from genre_tf.data.serialization import article_record, write_records

    write_records(folder / ARTICLES_FILE, map(article_record, table.articles[1:]))


def _write_shards(folder: Path, split: str, examples: list[ImpressionExample], shards: int) -> None:
    from genre_tf.data.serialization import example_record, write_records

    for shard in range(shards):
        members = (example for example in examples if shard_of(example.impression, shards) == shard)
        write_records(folder / shard_name(split, shard, shards), map(example_record, members))


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
    except OSError as error:
        raise FailureError(
            f"{out} could not be written: {error}; check the path, its rights and the disk"
        ) from None
    finally:
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
