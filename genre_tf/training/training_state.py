"""The state of an unfinished training: everything that the next step depends on, in one file."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import keras
import numpy as np

from genre_tf.errors import FailureError, InputError

_PROGRESS = "progress"


def save_state(file: Path, variables: Sequence[Any], progress: dict[str, Any]) -> None:
    """Write variables and progress completely or not at all; until then the previous file stays.

    Args:
        file: an `.npz` file without pickles.
        variables: variables of the model, its random generators and its optimizer, in a fixed order.
        progress: plain values.

    Raises:
        FailureError: the disk is full or may not be written.
    """
    arrays: dict[str, Any] = {
        _name(place): keras.ops.convert_to_numpy(value) for place, value in enumerate(variables)
    }
    arrays[_PROGRESS] = np.frombuffer(json.dumps(progress).encode("utf-8"), np.uint8)
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as stream:
            np.savez(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FailureError(
            f"{file} cannot be written ({error.strerror}); free some space, then repeat the command; "
            "it resumes from the last saved state"
        ) from None


def load_progress(file: Path) -> dict[str, Any] | None:
    """The saved progress, or None if there is none or it is damaged."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            progress: dict[str, Any] = json.loads(arrays[_PROGRESS].tobytes())
        return progress
    except (OSError, ValueError, KeyError, BadZipFile):
        return None


def load_variables(file: Path, variables: Sequence[Any]) -> None:
    """Assign the values that `save_state` wrote to the same variables.

    Raises:
        InputError: the variables are not the same.
    """
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        shapes = [arrays[name].shape for name in arrays.files if name != _PROGRESS]
        if shapes != [tuple(variable.shape) for variable in variables]:
            raise InputError(f"{file} belongs to another model; delete it to train from the start")
        for place, variable in enumerate(variables):
            variable.assign(arrays[_name(place)])


def check_room(folder: Path, variables: Sequence[Any]) -> None:
    """Check before any work that the disk has room for two states (briefly) and the best weights.

    Raises:
        InputError: the disk is too full, or the folder may not be written.
    """
    needed = 3 * sum(map(_bytes, variables))
    try:
        probe = folder / ".probe"
        probe.write_bytes(b"\0")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); give another --run") from None
    if free < needed:
        raise InputError(
            f"{folder} has {free / 2**20:,.0f} MiB free, but this training needs {needed / 2**20:,.0f} MiB; "
            "free some space, or give a --run on another disk"
        )


def _bytes(variable: Any) -> int:
    width = np.dtype(keras.backend.standardize_dtype(variable.dtype).replace("bfloat16", "float16"))
    return int(np.prod(variable.shape, dtype=np.int64)) * width.itemsize


def _name(place: int) -> str:
    return f"variable_{place:05d}"
