"""Answer recorded requests from a SavedModel by session, the way TensorFlow Serving runs it.

A program of its own: it imports TensorFlow, TensorFlow Text and NumPy and no part of genre_tf, so that
nothing but the SavedModel can have answered. Run it in a fresh process, isolated from this folder:

    python -I replay.py VERSION_FOLDER RECORDS.npz [RECORDS.npz …]

prints one JSON document:
{"modules": […], "exchanges": [{"signature", "case", "known", "rows", "difference", "faults"}, …]}.

Without arguments it reads them from its input, a JSON string a line, and takes up each one as it comes:
whoever writes a version starts it before, so that it imports TensorFlow, loads and answers meanwhile.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-5  # absolute and relative, of float32 outputs
SHOWN_FAULTS = 3
Tensors = dict[str, np.ndarray]


def read_records(file: Path) -> list[dict[str, Any]]:
    """Read recorded exchanges.

    Args:
        file: an `.npz` without pickled parts; names are `NUMBER|SIGNATURE|CASE|inputs or outputs|TENSOR`.

    Returns:
        In order of their numbers: {"signature", "case", "inputs": {name: array}, "outputs": {name: array}};
        outputs are empty where only the request was recorded.
    """
    records: dict[str, dict[str, Any]] = {}
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        for name in arrays.files:
            number, signature, case, side, tensor = name.split("|")
            record = records.setdefault(
                number, {"signature": signature, "case": case, "inputs": {}, "outputs": {}}
            )
            record[side][tensor] = arrays[name]
    return [records[number] for number in sorted(records)]


def compare(expected: Tensors, actual: Tensors) -> tuple[float, list[str]]:
    """Compare the answers of a signature with what the Python model answers.

    Strings, booleans and integers must be equal, floats within `TOLERANCE`. Where rows are ordered by
    `score`, neighbours whose scores tie within the tolerance may stand in another order.

    Args:
        expected: name to array; of no entries when only soundness is asked.
        actual: name to array, as the session gave them.

    Returns:
        The greatest absolute difference of floats, and what is wrong, in words.
    """
    faults = [fault for name, array in sorted(actual.items()) for fault in _unsound(name, array)]
    difference = 0.0
    if expected and set(expected) != set(actual):
        faults.append(f"outputs {sorted(actual)} where {sorted(expected)} were expected")
    for name in sorted(set(expected) & set(actual)):
        want, got = expected[name], actual[name]
        if want.shape != got.shape:
            faults.append(f"{name}: shape {list(got.shape)}, expected {list(want.shape)}")
        elif want.dtype.kind == "f":
            distance = np.abs(got - want)
            difference = max(difference, float(distance[np.isfinite(distance)].max(initial=0.0)))
            faults += _differing(name, distance <= TOLERANCE * (1 + np.abs(want)), want, got)
        elif want.dtype.kind in "SO":
            equal = _bytes(want) == _bytes(got)
            faults += _differing(name, equal | _ties(expected.get("score"), want.shape), want, got)
        else:
            faults += _differing(name, want == got, want, got)
    return difference, faults


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.astype(object)


def _ties(score: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Bool, `shape`: the entry's score is within the tolerance of another one of its row, or of the last."""
    if score is None or score.shape != shape or len(shape) != 2:
        return np.zeros(shape, bool)
    apart = np.abs(score[:, :, None] - score[:, None, :])  # [rows, K, K]
    close = apart <= 2 * TOLERANCE
    padding = score < 0
    near_last = (
        score - np.where(padding, np.inf, score).min(1, keepdims=True, initial=np.inf)
    ) <= 2 * TOLERANCE
    return ((close.sum(-1) > 1) | near_last) & ~padding


def _unsound(name: str, array: np.ndarray) -> list[str]:
    """JSON can carry neither numbers that are not finite nor strings that are not UTF-8."""
    if array.dtype.kind == "f":
        return [] if np.isfinite(array).all() else [f"{name}: {int((~np.isfinite(array)).sum())} not finite"]
    if array.dtype.kind not in "SO":
        return []
    broken = 0
    for value in array.ravel():
        try:
            value.decode("utf-8")
        except UnicodeDecodeError:
            broken += 1
    return [f"{name}: {broken} strings that are no UTF-8"] if broken else []


def _differing(name: str, equal: np.ndarray, want: np.ndarray, got: np.ndarray) -> list[str]:
    places = np.argwhere(~equal)
    faults = []
    for place in places[:SHOWN_FAULTS]:
        at = tuple(int(part) for part in place)
        faults.append(f"{name}{list(at)}: {got[at]!r}, expected {want[at]!r}")
    if len(places) > SHOWN_FAULTS:
        faults.append(f"{name}: {len(places) - SHOWN_FAULTS} more")
    return faults


def replay(names: Iterator[str]) -> list[dict[str, Any]]:
    """Load the SavedModel into a session and answer every recorded request.

    Args:
        names: the version's folder, then files of records.
    """
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (registers its ops)

    results = []
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], next(names))
        for record in (record for file in names for record in read_records(Path(file))):
            answer = {name: record[name] for name in ("signature", "case")}
            answer |= {"known": bool(record["outputs"]), "rows": 0, "difference": 0.0}
            signature = graph.signature_def.get(record["signature"])
            if signature is None:
                results.append({**answer, "faults": ["the signature is missing"]})
                continue
            try:
                feeds = {signature.inputs[name].name: array for name, array in record["inputs"].items()}
                fetches = {name: tensor.name for name, tensor in signature.outputs.items()}
                outputs = session.run(fetches, feeds)
            except (tf.errors.OpError, ValueError, TypeError, KeyError) as error:
                results.append({**answer, "faults": [str(error).splitlines()[0][:300]]})
                continue
            answer["rows"] = len(next(iter(record["inputs"].values())))
            answer["difference"], faults = compare(record["outputs"], outputs)
            results.append({**answer, "faults": faults})
    return results


def main() -> None:
    """Replay what the command line names, or the input; JSON on stdout."""
    results = replay(iter(sys.argv[1:] or map(json.loads, sys.stdin)))
    modules = sorted({name.split(".")[0] for name in sys.modules})
    json.dump({"modules": modules, "exchanges": results}, sys.stdout)


if __name__ == "__main__":
    main()
