"""Answer recorded requests from a SavedModel in a session, as TensorFlow Serving runs it.

This is a separate program. It imports TensorFlow and NumPy, but no part of genre_tf, so only the SavedModel
can have produced the answers. Run it in a fresh process, isolated from this folder:

    python -I replay.py VERSION_FOLDER RECORDS.npz [RECORDS.npz …]

It prints one JSON document:
{"modules": […], "exchanges": [{"signature", "case", "known", "rows", "difference", "faults"}, …]}.
The options --known-graph and --only SIGNATURE[,SIGNATURE …] come before the folder, in this order; they are
the arguments of `replay`.

Without a folder it reads the folder and the files from its input, one JSON string per line, and processes
each as it arrives. So it can be started before a version is complete, and imports TensorFlow, loads and
answers meanwhile. The session is filled in the order of TensorFlow's own loader: graph, variables, tables.
"""

import gc
import itertools
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-5  # absolute and relative, of float32 outputs
SHOWN_FAULTS = 3
KNOWN_GRAPH, ONLY = "--known-graph", "--only"
Tensors = dict[str, np.ndarray]


def read_records(file: Path) -> list[dict[str, Any]]:
    """Read recorded exchanges in the order of their numbers.

    The file is an `.npz` without pickled parts; names are `NUMBER|SIGNATURE|CASE|inputs or outputs|TENSOR`.
    A record is {"signature", "case", "inputs": {name: array}, "outputs": {name: array}}; outputs are empty if
    only the request was recorded.
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
    """Compare the answers of a signature with the answers of the Python model.

    Strings, booleans and integers must be equal, floats within `TOLERANCE`. If rows are ordered by `score`,
    neighbours whose scores are equal within the tolerance may be in another order. If nothing is expected,
    answers must only be finite and UTF-8; so must an output whose expected array is empty, [0].

    Returns:
        The largest absolute difference of floats, and the faults, in words.
    """
    faults = [fault for name, array in sorted(actual.items()) for fault in _unsound(name, array)]
    difference = 0.0
    if expected and set(expected) != set(actual):
        faults.append(f"outputs {sorted(actual)}, expected {sorted(expected)}")
    for name in sorted(set(expected) & set(actual)):
        want, got = expected[name], actual[name]
        if want.shape == (0,):
            continue
        if want.shape != got.shape:
            faults.append(f"{name}: shape {list(got.shape)}, expected {list(want.shape)}")
        elif want.dtype.kind == "f":
            distance = np.abs(got - want)
            difference = max(difference, float(distance[np.isfinite(distance)].max(initial=0.0)))
            faults += _differing(name, distance <= TOLERANCE * (1 + np.abs(want)), want, got)
        elif want.dtype.kind in "SO":
            equal = want.astype(object) == got.astype(object)
            faults += _differing(name, equal | _ties(expected.get("score"), want.shape), want, got)
        else:
            faults += _differing(name, want == got, want, got)
    return difference, faults


def _ties(score: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Entries whose score is within the tolerance of another one in the row, or of the last: bool `shape`."""
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
    """Faults of values that JSON cannot represent: NaN, infinite numbers and invalid UTF-8."""
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
    return [f"{name}: {broken} not valid UTF-8"] if broken else []


def _differing(name: str, equal: np.ndarray, want: np.ndarray, got: np.ndarray) -> list[str]:
    places = np.argwhere(~equal)
    faults = []
    for place in places[:SHOWN_FAULTS]:
        at = tuple(int(part) for part in place)
        faults.append(f"{name}{list(at)}: {got[at]!r}, expected {want[at]!r}")
    if len(places) > SHOWN_FAULTS:
        faults.append(f"{name}: {len(places) - SHOWN_FAULTS} more differences")
    return faults


def replay(
    names: Iterator[str], known_graph: bool = False, only: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Load the SavedModel into a session and answer every recorded request.

    Args:
        names: the version's folder, which need contain only the graph at first, then files of records. The
            version must be complete when the first of these files is given.
        known_graph: the same graph was replayed before, fully optimized as on a server, with other values in
            its variables. Then only functions are inlined, which takes TensorFlow half as long.
        only: the signatures whose requests are answered; if empty, all.

    Returns:
        One result per record: {"signature", "case", "known", "rows", "difference", "faults"}.
    """
    gc.disable()  # importing TensorFlow makes no garbage; without the collector it is a fifth faster
    import tensorflow as tf
    from tensorflow.python.saved_model.loader_impl import SavedModelLoader  # the steps of the public `load`

    gc.enable()

    config = tf.compat.v1.ConfigProto()
    if known_graph:
        rewriting = config.graph_options.rewrite_options
        rewriting.optimizers.extend(("pruning", "function", "dependency"))
        rewriting.meta_optimizer_iterations = rewriting.ONE
        rewriting.disable_tfg_optimizer = True
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        loader = SavedModelLoader(next(names))
        saver, _ = loader.load_graph(session.graph, ["serve"])
        definitions = loader.get_meta_graph_def_from_tags(["serve"]).signature_def
        made: dict[bytes, _Signature] = {}
        signatures: dict[str, _Signature] = {}
        for name in only or definitions:
            if definitions[name].inputs:
                key = definitions[name].SerializeToString(deterministic=True)
                made[key] = signatures[name] = made.get(key) or _Signature(session, definitions[name])
        files = itertools.chain([next(names, None)], names)  # waits for the first file
        loader.restore_variables(session, saver)
        loader.run_init_ops(session, ["serve"])
        records = (record for file in files if file for record in read_records(Path(file)))
        return [
            _answer(signatures.get(record["signature"]), record)
            for record in records
            if not only or record["signature"] in only
        ]


class _Signature:
    """A signature of a session's graph, which is optimized on creation; variables need no values for it."""

    def __init__(self, session: Any, definition: Any) -> None:
        from tensorflow import as_dtype, errors
        from tensorflow.core.protobuf.config_pb2 import CallableOptions

        self._inputs = {name: as_dtype(one.dtype).as_numpy_dtype for name, one in definition.inputs.items()}
        self._outputs = list(definition.outputs)
        self._refused: Exception | None = None
        feeds = [definition.inputs[name].name for name in self._inputs]
        fetches = [definition.outputs[name].name for name in self._outputs]
        try:
            # The public `make_callable` would do all this only at the first request.
            self._call = session._make_callable_from_options(CallableOptions(feed=feeds, fetch=fetches))
        except errors.OpError as error:
            self._refused = error

    def run(self, inputs: Tensors) -> Tensors:
        """Answer one request, or raise TensorFlow's error, or a ValueError if the inputs have other names."""
        if self._refused is not None:
            raise self._refused
        if set(inputs) != set(self._inputs):
            raise ValueError(f"inputs {sorted(inputs)}, expected {sorted(self._inputs)}")
        values = self._call(*(np.asarray(inputs[name], dtype) for name, dtype in self._inputs.items()))
        return dict(zip(self._outputs, map(np.asarray, values), strict=True))


def _answer(signature: _Signature | None, record: dict[str, Any]) -> dict[str, Any]:
    from tensorflow import errors

    answer = {name: record[name] for name in ("signature", "case")}
    answer |= {"known": bool(record["outputs"]), "rows": 0, "difference": 0.0}
    if signature is None:
        return {**answer, "faults": ["the signature is missing"]}
    try:
        outputs = signature.run(record["inputs"])
    except (errors.OpError, ValueError, TypeError) as error:
        return {**answer, "faults": [str(error).splitlines()[0][:300]]}
    answer["rows"] = len(next(iter(record["inputs"].values())))
    answer["difference"], faults = compare(record["outputs"], outputs)
    return {**answer, "faults": faults}


def main() -> None:
    """Replay the files named on the command line, or else in the input; print JSON."""
    # As on a server, without Keras: TensorFlow would import it, and Keras scikit-learn and Matplotlib.
    sys.modules["keras"] = None  # type: ignore[assignment]
    arguments = sys.argv[1:]
    known_graph = arguments[:1] == [KNOWN_GRAPH]
    arguments = arguments[known_graph:]
    only = arguments[1].split(",") if arguments[:1] == [ONLY] else []
    arguments = arguments[2 * bool(only) :]
    results = replay(iter(arguments or map(json.loads, sys.stdin)), known_graph, only)
    modules = sorted({name.split(".")[0] for name, module in sys.modules.items() if module is not None})
    json.dump({"modules": modules, "exchanges": results}, sys.stdout)
    gc.freeze()  # otherwise the collector spends a second on TensorFlow's modules at the exit


if __name__ == "__main__":
    main()
