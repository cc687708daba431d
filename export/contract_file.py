"""`assets.extra/contract.json`: what a version guarantees, and what it was made from.

The team that serves the model can read it with any JSON reader. It contains the signatures with names, dtypes
and shapes, sizes, library versions, fingerprints of data, weights and code, and the metrics of the run.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tensorflow as tf

import genre_tf
from genre_tf.contract import ASSETS_FOLDER, CONTRACT_FILE, DEFAULT_SIGNATURE
from genre_tf.errors import InputError
from genre_tf.export.gate import INITIALIZER, read_saved_model
from genre_tf.files import read_json_object

LIBRARIES = (
    "genre-tf",
    "tensorflow",
    "tensorflow-text",
    "keras",
    "keras-hub",
    "tensorflow-recommenders",
    "numpy",
)


def write_contract(
    folder: Path,
    servable: str,
    sizes: Mapping[str, Any],
    batch_sizes: Iterable[int],
    sources: Mapping[str, Any],
) -> None:
    """Write the contract of a SavedModel into its `assets.extra`.

    The sizes are limits of requests and answers, such as {"articles": 48915, "max_history": 50}, and
    recommendation rules that differ from the default; the sources are JSON values, such as fingerprints of
    data and run, and metrics.
    """
    contract = {
        "servable": servable,
        "default_signature": DEFAULT_SIGNATURE,
        "signatures": signatures(folder),
        "sizes": dict(sizes),
        "batch_sizes": list(batch_sizes),
        "versions": {name: _version(name) for name in LIBRARIES},
        "fingerprints": {"code": code_fingerprint(), "weights": files_fingerprint(folder / "variables")},
        "sources": dict(sources),
    }
    text = json.dumps(contract, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / ASSETS_FOLDER / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")


def read_contract(folder: Path) -> dict[str, Any]:
    """Read a version's contract."""
    file = folder / ASSETS_FOLDER / CONTRACT_FILE
    if not file.is_file():
        raise InputError(f"no contract at {file}: export again")
    return read_json_object(file, "Export again.")


def contract_faults(folder: Path, contract: Mapping[str, Any]) -> list[str]:
    """Where a contract contradicts the version MODELS/NAME/VERSION that it belongs to, in words."""
    faults = []
    servable = folder.resolve().parent.name
    if contract.get("servable") != servable:
        faults.append(
            f"contract.json is for servable {contract.get('servable')!r}, but the folder is for {servable!r}"
        )
    if contract.get("signatures") != signatures(folder):
        faults.append("contract.json lists other signatures than the graph has")
    fingerprints = contract.get("fingerprints")
    promised = fingerprints.get("weights") if isinstance(fingerprints, dict) else None
    if promised != files_fingerprint(folder / "variables"):
        faults.append("the files in variables/ are not those that contract.json was written for")
    return faults


def signatures(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Names, dtypes and shapes of all signatures, as the graph declares them; an open dimension is None."""

    def described(info: Any) -> dict[str, Any]:
        shape = [dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim]
        return {"dtype": tf.as_dtype(info.dtype).name, "shape": shape}

    declared = read_saved_model(folder).meta_graphs[0].signature_def
    return {
        name: {
            side: {key: described(info) for key, info in sorted(getattr(signature, side).items())}
            for side in ("inputs", "outputs")
        }
        for name, signature in sorted(declared.items())
        if name != INITIALIZER
    }


def code_fingerprint() -> str:
    """SHA-256 of all source files that take part in an export; equal code has an equal hash anywhere."""
    files = {}
    # A wheel installs export/ inside genre_tf/; in a checkout it is beside genre_tf/.
    for prefix, folder in (("", Path(genre_tf.__file__).parent), ("export/", Path(__file__).parent)):
        files.update({prefix + file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")})
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        if not name.startswith("serving/"):
            digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def files_fingerprint(*places: Path) -> str:
    """SHA-256 of names and contents of files; a folder stands for all files in it."""
    digest = hashlib.sha256()
    for place in places:
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                digest.update(file.name.encode() + b"\0")
                with file.open("rb") as content:
                    digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
