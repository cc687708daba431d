"""Recorded requests with the Python model's answers, if known; `genre verify` replays them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from genre_tf.errors import InputError
from genre_tf.export.replay import read_records

PARITY_FILE = "parity.npz"


@dataclass(frozen=True)
class Exchange:
    """One request to a signature, and the answer that it must get.

    Attributes:
        signature: name of the signature.
        case: what the request is an example of, in a few words.
        inputs: name to array, bytes or int64 [rows].
        outputs: name to array, [rows, …]; empty if only the request is known.
    """

    signature: str
    case: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray] = field(default_factory=dict)


def write_exchanges(file: Path, exchanges: Iterable[Exchange]) -> None:
    """Write exchanges to a compressed `.npz` file without pickled parts.

    Raises:
        ValueError: a string ends with a zero byte, which NumPy's byte arrays would drop.
    """
    arrays: dict[str, np.ndarray] = {}
    for number, exchange in enumerate(exchanges):
        for side, tensors in (("inputs", exchange.inputs), ("outputs", exchange.outputs)):
            for name, array in tensors.items():
                key = "|".join((f"{number:05d}", exchange.signature, exchange.case, side, name))
                arrays[key] = _storable(array)
    # The names are not Python identifiers, so they are passed as a mapping.
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_exchanges(file: Path) -> list[Exchange]:
    """Read a file that `write_exchanges` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return [Exchange(**record) for record in read_records(file)]
    except FileNotFoundError:
        raise InputError(f"no recorded answers at {file}: export again") from None
    except Exception as error:  # for a damaged file, zipfile, zlib and NumPy each raise their own error
        raise InputError(f"{file} cannot be read ({error}): export again") from None


def as_bytes(texts: Iterable[str | bytes]) -> np.ndarray:
    """Strings as an array of Python bytes objects, [rows]."""
    values = [text if isinstance(text, bytes) else text.encode("utf-8") for text in texts]
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _storable(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "OU":
        return array
    values = [value if isinstance(value, bytes) else str(value).encode("utf-8") for value in array.ravel()]
    if any(value.endswith(b"\0") for value in values):
        raise ValueError("a recorded string ends with a zero byte, which the file format cannot store")
    return np.array(values, dtype=bytes).reshape(array.shape) if values else np.zeros(array.shape, "S1")
