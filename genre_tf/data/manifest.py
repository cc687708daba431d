"""Layout and manifest of a prepared folder; the manifest lists its inputs, settings and contents."""

import hashlib
import json
from pathlib import Path
from typing import Any

from genre_tf.data.lines import Fault
from genre_tf.data.mind import split_files
from genre_tf.errors import InputError

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


def input_fingerprints(data: Path, split: str) -> dict[str, str]:
    """SHA-256 of a split's two files, by their path inside the data set."""
    return {str(path.relative_to(data)): file_fingerprint(path) for path in split_files(data, split)}


def output_fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of every file of a prepared folder except the manifest, by name."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST_FILE)
    return {path.name: {"bytes": path.stat().st_size, "sha256": file_fingerprint(path)} for path in paths}


def fault_rows(faults: list[Fault], data: Path) -> list[dict[str, Any]]:
    """Faults as plain values, with paths inside the data set, so that equal data give equal manifests."""
    return [
        {
            "file": str(Path(fault.file).relative_to(data)),
            "line": fault.line,
            "field": fault.field,
            "message": fault.message,
        }
        for fault in faults
    ]


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes the manifest as JSON."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def load_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a prepared folder.

    Args:
        folder: what `genre prepare` wrote.

    Returns:
        `format`, `settings`, `inputs`, `outputs`, `articles`, `article_table` (fingerprint), `shards` (number
        of files), `validation_seconds` (when validation begins, or null), `splits` (`train` and
        `validation`: impressions, clicks, candidates, first and last time in hours), `bad_rows` and
        `faults`; `signals`, true, if the examples have weights.

    Raises:
        InputError: the folder is missing, not prepared, or of another version of this program.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{folder} is not a prepared folder (no {MANIFEST_FILE}); run `genre prepare`"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / MANIFEST_FILE} cannot be read ({error}); run `genre prepare` again"
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(
            f"{folder} was prepared by another version (format {_format_of(manifest)}, this version reads "
            f"{FORMAT}); run `genre prepare` with --overwrite, or `genre train` with a new --run"
        )
    return manifest


def _format_of(manifest: Any) -> Any:
    return manifest.get("format") if isinstance(manifest, dict) else None


def is_prepared(folder: Path) -> bool:
    """Whether a folder's manifest is one of ours, of any version: many programs write a manifest.json."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"article_table", "outputs"} <= manifest.keys()


def is_current(folder: Path, settings: dict[str, Any], inputs: dict[str, str], max_bad_rows: int) -> bool:
    """Whether a folder holds the undamaged result of these settings and inputs.

    Args:
        folder: folder to look at.
        settings: settings in the form of the manifest.
        inputs: fingerprints of the input files.
        max_bad_rows: rows that may be skipped now.

    Returns:
        True if preparing again would write the same.
    """
    try:
        manifest = load_manifest(folder)
    except InputError:
        return False
    made_of_the_same = manifest.get("settings") == settings and manifest.get("inputs") == inputs
    allowed = manifest.get("bad_rows", 0) <= max_bad_rows
    return made_of_the_same and allowed and manifest.get("outputs") == output_fingerprints(folder)
