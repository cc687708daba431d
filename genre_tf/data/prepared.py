"""Prepared folders: a log as columns, and a manifest of their inputs, settings and contents."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable, damaged, read_article_file
from genre_tf.data.columns import ImpressionColumns, ImpressionExample, Ints, read_columns
from genre_tf.errors import InputError
from genre_tf.files import read_json_object

MANIFEST_FILE = "manifest.json"
ARTICLES_FILE = "articles.arrow"
COUNTERS_FILE = "counters.npz"
SPLITS = ("train", "validation")

FORMAT = 3
"""Raised when the files change, so that folders of an older program are prepared again."""

Manifest = dict[str, Any]


def shard_name(shard: int) -> str:
    """File name of some consecutive impressions, such as `impressions-00003.arrow`."""
    return f"impressions-{shard:05d}.arrow"


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def output_fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of every file of a prepared folder except the manifest, by name."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST_FILE)
    return {path.name: {"bytes": path.stat().st_size, "sha256": file_fingerprint(path)} for path in paths}


def write_manifest(manifest: Manifest, folder: Path) -> Manifest:
    """Writes the manifest of a complete folder; returns it with the fingerprints of all other files."""
    manifest = manifest | {"outputs": output_fingerprints(folder)}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    return manifest


def contents(columns: ImpressionColumns, shards: int, begins: int | None) -> Manifest:
    """What the manifest says about the impressions of a folder.

    Args:
        columns: all of them.
        shards: number of files.
        begins: when validation begins, in seconds since 1970; None: nothing is held out.
    """
    splits = {}
    held_out = in_validation(columns.seconds, begins)
    for name, some in zip(SPLITS, (columns[~held_out], columns[held_out]), strict=True):
        hours = (
            [int(each) / 3600 for each in (some.seconds.min(), some.seconds.max())]
            if len(some)
            else [None] * 2
        )
        splits[name] = {
            "impressions": len(some),
            "candidates": int(some.shown.sum()),
            "clicks": sum(int(block.labels.sum()) for block in some.blocks("labels")),
            "first_hours": hours[0],
            "last_hours": hours[1],
        }
    signals = {"signals": True} if columns.has_weights else {}
    return {"shards": shards, "validation_seconds": begins, "splits": splits, **signals}


def load_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a prepared folder.

    Returns:
        `format`, `settings`, `inputs`, `outputs`, `articles`, `article_table` (fingerprint), `shards` (number
        of files), `validation_seconds` (when validation begins, or null), `splits` (`train` and
        `validation`: impressions, clicks, candidates, first and last time in hours), `bad_rows` and
        `faults`; `signals`, true, if the examples have weights.

    Raises:
        InputError: the folder is missing, not prepared, or of another version of this program.
    """
    manifest = read_json_object(folder / MANIFEST_FILE, "Run `genre prepare` again.")
    if not manifest:
        raise InputError(f"{folder} is not a prepared folder (no {MANIFEST_FILE}); run `genre prepare`")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{folder} was prepared by another version (format {manifest.get('format')}, this version reads "
            f"{FORMAT}); run `genre prepare` with --overwrite, or `genre train` with a new --run"
        )
    return manifest


def is_prepared(folder: Path) -> bool:
    """Whether a folder's manifest is one of ours, of any version: many programs write a manifest.json."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"article_table", "outputs"} <= manifest.keys()


def is_current(folder: Path, settings: dict[str, Any], inputs: dict[str, str], max_bad_rows: int) -> bool:
    """Whether preparing a folder again from these inputs, with these settings, would change nothing."""
    try:
        manifest = load_manifest(folder)
    except InputError:
        return False
    made_of_the_same = manifest.get("settings") == settings and manifest.get("inputs") == inputs
    allowed = manifest.get("bad_rows", 0) <= max_bad_rows
    return made_of_the_same and allowed and manifest.get("outputs") == output_fingerprints(folder)


def read_articles(folder: Path) -> ArticleTable:
    """Reads the table of articles that the examples of a prepared folder refer to.

    Raises:
        InputError: not a prepared folder, or a damaged one.
    """
    manifest = load_manifest(folder)
    table = ArticleTable(read_article_file(folder / ARTICLES_FILE))
    if table.fingerprint != manifest["article_table"]:
        raise damaged(folder / ARTICLES_FILE)
    return table


def read_examples(folder: Path, split: str) -> ImpressionColumns:
    """Opens the examples of a prepared folder, in the order of the log.

    Args:
        folder: the prepared folder.
        split: `train` or `validation`.

    Raises:
        InputError: not a prepared folder, a damaged one, or no such split in it.
    """
    manifest = load_manifest(folder)
    if split not in SPLITS:
        raise InputError(f"the split of a prepared folder must be {' or '.join(SPLITS)}; got {split!r}")
    columns = read_columns([folder / shard_name(shard) for shard in range(manifest["shards"])])
    held_out = in_validation(columns.seconds, manifest["validation_seconds"])
    return columns[held_out if split == SPLITS[1] else ~held_out]


def split_by_time(
    examples: Sequence[ImpressionExample], validation_share: float
) -> tuple[ImpressionColumns, ImpressionColumns]:
    """Sets the newest examples aside for validation.

    Args:
        examples: in any order.
        validation_share: share of the examples, newest by time; at least 0 and below 1.

    Returns:
        Training and validation examples, each in the given order. Examples of one moment stay together
        (on the validation side), so that no validation example is as old as a training example.
    """
    columns = ImpressionColumns.of(examples)
    held_out = in_validation(columns.seconds, first_of_validation(columns.seconds, validation_share))
    return columns[~held_out], columns[held_out]


def first_of_validation(seconds: Ints, validation_share: float) -> int | None:
    """The second at which the newest share of impressions begins, int64 [n]; None if nothing is held out."""
    held_out = round(len(seconds) * validation_share)
    rank = len(seconds) - held_out
    return int(np.partition(seconds, rank)[rank]) if held_out else None


def in_validation(seconds: Ints, begins: int | None) -> npt.NDArray[np.bool_]:
    """Whether impressions, int64 [n], are held out: bool [n]."""
    return np.full(len(seconds), False) if begins is None else seconds >= begins
