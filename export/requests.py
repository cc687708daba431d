"""Requests that verify every export, the files that keep them, and warmup requests.

Recorded requests are usual and unusual ones, with the answers of the Python models. TensorFlow Serving
answers the warmup requests when it loads a version, so that no user's request is slow. `genre verify` replays
both: one bad warmup record prevents a version from loading (observed on TensorFlow Serving).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from genre_tf.contract import (
    COUNTED,
    COUNTERS,
    EXAMPLES_INPUT,
    MOST_WARMUP_RECORDS,
    RECOMMENDER,
    SIGNATURES,
    Output,
    Signature,
)
from genre_tf.errors import InputError
from genre_tf.export.replay import read_records
from genre_tf.funnel.index import Catalogue

PARITY_FILE = "parity.npz"

Rows = dict[str, np.ndarray]
_LONG_HISTORY = 10_000
_HISTORY, _CANDIDATES = 20, 30  # of a usual reader
_ODD_BYTES = b"\xff\xfe \xc3( caf\xe9"


@dataclass(frozen=True)
class Exchange:
    """One request to a signature, and the answer that it must get."""

    signature: str
    case: str  # what the request is an example of, in a few words
    inputs: dict[str, np.ndarray]  # name to array, bytes or int64 [rows]
    outputs: dict[str, np.ndarray] = field(default_factory=dict)  # [rows, …]; empty if not known


def write_exchanges(file: Path, exchanges: Iterable[Exchange]) -> None:
    """Write exchanges to a compressed `.npz` file without pickled parts."""
    arrays: dict[str, np.ndarray] = {}
    for number, exchange in enumerate(exchanges):
        for side, tensors in (("inputs", exchange.inputs), ("outputs", exchange.outputs)):
            for name, array in tensors.items():
                key = "|".join((f"{number:05d}", exchange.signature, exchange.case, side, name))
                arrays[key] = _storable(array)
    # The names are not Python identifiers, so they are passed as a mapping.
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_exchanges(file: Path) -> list[Exchange]:
    """Read a file that `write_exchanges` wrote."""
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


def write_warmup(file: Path, servable: str, examples: Mapping[str, Rows], batch_sizes: Sequence[int]) -> None:
    """Write one request for each signature and batch size; rows are repeated up to each size."""
    if len(examples) * len(batch_sizes) > MOST_WARMUP_RECORDS:
        raise InputError(
            f"{len(examples)} signatures x {len(batch_sizes)} batch sizes are more warmup requests "
            f"than TensorFlow Serving accepts ({MOST_WARMUP_RECORDS}): set fewer allowed_batch_sizes or a "
            "smaller max_batch_size in batching.config"
        )
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, rows in examples.items():
            for size in batch_sizes:
                inputs = {name: np.resize(array, size) for name, array in rows.items()}
                writer.write(_record(servable, signature, inputs).SerializeToString(deterministic=True))


def read_warmup(file: Path) -> list[Exchange]:
    """Read warmup records as exchanges without answers."""
    if not file.is_file():
        raise InputError(f"no warmup requests at {file}: export again")
    exchanges = []
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            log = prediction_log_pb2.PredictionLog.FromString(record)
            if log.WhichOneof("log_type") == "regress_log":
                request = log.regress_log.request
                rows = [one.SerializeToString() for one in request.input.example_list.examples]
                inputs = {EXAMPLES_INPUT: as_bytes(rows)}
            else:
                request = log.predict_log.request
                inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            case = f"warmup, batch {len(next(iter(inputs.values()), ()))}"
            exchanges.append(Exchange(request.model_spec.signature_name, case, inputs))
    except (tf.errors.DataLossError, DecodeError) as error:
        raise InputError(f"{file} is damaged ({str(error).splitlines()[0]}): export again") from None
    if not exchanges:
        raise InputError(f"{file} has no requests: export again")
    return exchanges


def _record(servable: str, signature: str, inputs: Rows) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    if set(inputs) == {EXAMPLES_INPUT}:
        request = log.regress_log.request
        for one in inputs[EXAMPLES_INPUT]:
            request.input.example_list.examples.add().ParseFromString(one)
    else:
        request = log.predict_log.request
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    request.model_spec.name = servable
    request.model_spec.signature_name = signature
    return log


def recorded_requests(servable: str, catalogue: Catalogue) -> list[Exchange]:
    """Requests without answers for every signature: a usual row alone, and all kinds of rows in one batch."""
    columns = _columns(catalogue)
    return [
        Exchange(name, case, _inputs(columns, signature, usual))
        for name, signature in SIGNATURES[servable].items()
        for case, usual in (("alone", True), ("all kinds of rows", False))
    ]


def stacked(output: Output, rows: list[Any]) -> np.ndarray:
    """Rows of different lengths as one array, with the padding that the graph uses."""
    dtype: Any = {"string": object, "bool": bool, "float32": np.float32}[output.dtype]
    arrays = [np.array(row, dtype) for row in rows]
    shape = np.max([array.shape for array in arrays], axis=0).astype(int).tolist()
    padding = b"" if output.dtype == "string" else output.padding or 0
    filled = np.full((len(rows), *shape), padding, dtype)
    for number, array in enumerate(arrays):
        place: Any = (number, *(slice(size) for size in array.shape))
        filled[place] = array
    return filled


class RowByRow:
    """Computes expected answers with the Python functions of a servable, one row at a time.

    So verification compares a session's batched answers with unbatched ones of this process.
    """

    def __init__(self, servable: str, functions: Any) -> None:
        self.signatures, self.functions = SIGNATURES[servable], functions
        # The default signature gets the same requests as the first one, and writing a text is slow.
        self._answered: dict[tuple[Any, ...], dict[str, Any]] = {}

    def answer(self, request: Exchange) -> Exchange:
        """Return the request with its answer."""
        signature = self.signatures[request.signature]
        rows = []
        for row in zip(*(request.inputs[name].tolist() for name in signature.input_names), strict=True):
            key = (signature.name, *row)
            if key not in self._answered:
                inputs = (tf.constant([one], of.dtype) for one, of in zip(row, signature.inputs, strict=True))
                answer = getattr(self.functions, signature.name)(*inputs)
                self._answered[key] = {name: values.numpy()[0] for name, values in answer.items()}
            rows.append(self._answered[key])
        outputs = {one.name: stacked(one, [row[one.name] for row in rows]) for one in signature.outputs}
        return Exchange(request.signature, request.case, request.inputs, outputs)


def counted_requests(catalogue: Catalogue) -> list[Exchange]:
    """The requests whose answers depend on counters; none of them has titles to encode."""
    text, case = "recommend_text", "a reader without titles"
    known = [one for one in recorded_requests(RECOMMENDER, catalogue) if one.signature in COUNTED]
    return [
        *(one for one in known if one.signature != text),
        Exchange(text, case, {"history_text": as_bytes([""])}),
    ]


def warmup_requests(servable: str, catalogue: Catalogue) -> dict[str, Rows]:
    """One usual row for every signature."""
    columns = _columns(catalogue)
    return {name: _inputs(columns, signature, True) for name, signature in SIGNATURES[servable].items()}


def example(**features: Sequence[str | bytes]) -> bytes:
    """A serialized `tf.Example` of bytes features."""
    built = tf.train.Example()
    for name, values in features.items():
        built.features.feature[name].bytes_list.value.extend(as_bytes(values))
    return bytes(built.SerializeToString(deterministic=True))


def _inputs(columns: Mapping[str, list[Any]], signature: Signature, usual: bool) -> Rows:
    """The usual row of a signature, or all rows."""
    rows = {one.name: columns[one.name][: 1 if usual else None] for one in signature.inputs}
    return {
        one.name: as_bytes(rows[one.name]) if one.dtype == "string" else np.array(rows[one.name], one.dtype)
        for one in signature.inputs
    }


def _columns(catalogue: Catalogue) -> dict[str, list[Any]]:
    """For each input the value of a usual row, and then those of odd rows."""
    random, size = np.random.default_rng(0), len(catalogue.news_ids)

    def chosen(count: int) -> list[int]:
        return random.integers(1, size, count).tolist() if size > 1 else []

    def ids(count: int) -> str:
        return " ".join(catalogue.news_ids[row] for row in chosen(count))

    def titles(count: int) -> str:
        return "\n".join(" ".join(catalogue.titles[row].split()) for row in chosen(count))

    usual_numbers = " ".join(str(number) for number in random.integers(0, 500, _CANDIDATES))
    numbers = [usual_numbers, "1 x -3 nan 1e3 inf", "", "5 6 7", "1e99 .5 +2.", _ODD_BYTES]
    history, twice = ids(_HISTORY), ids(2)
    candidates = [
        ids(_CANDIDATES),
        ids(1),
        "",
        f"{twice} no_such_article {twice}",
        ids(100),
        _ODD_BYTES + b" " + ids(1).encode(),
    ]
    histories = [
        history,
        "",
        ids(1),
        "no_such_article " + ids(3) + " nor_this",
        ids(_LONG_HISTORY),
        _ODD_BYTES + b"  " + ids(2).encode() + b"\t\n",
    ]
    examples = [
        example(history=[history], candidate=[ids(1)]),
        b"",
        example(history=ids(3).split()),
        example(history=ids(3).split(), candidate=[ids(2)], another=["feature"]),
        example(candidate=["no_such_article", ids(1)]),
        example(history=[_ODD_BYTES, ids(2)], candidate=["", ids(1), _ODD_BYTES]),
    ]
    title, odd = titles(1), _ODD_BYTES + "\n新闻 😀".encode()
    return {
        "history": histories,
        "candidates": candidates,
        "news_id": candidates,
        EXAMPLES_INPUT: examples,
        "history_text": [
            titles(_HISTORY),
            "",
            "An article that no index knows",
            "\n\n  \n" + titles(2) + "\r\n\n",
            titles(200),
            _ODD_BYTES + b"\n" + titles(1).encode() + "\n新闻 😀".encode(),
        ],
        "candidates_text": [
            titles(_CANDIDATES),
            title,
            "",
            f"{title}\n\n{title}\n",
            "新闻 😀\n" + "very " * 500 + "long",
            _ODD_BYTES,
        ],
        "text": [title, "", " ", "word " * 2000, "新闻 😀", _ODD_BYTES],
        "source": [titles(3), "", "", "word " * 3000, odd, 'On 5 May 2031 he said: "We will rebuild."'],
        "question": [f"What is new about {title}?", title, "", " \n ", "What " * 3000, odd],
        **dict.fromkeys(COUNTERS, numbers),
        "views": [numbers[0], *numbers[:0:-1]],
        "kind": ["title", "title", "summary", "body", b"\xff", "no such kind"],
        "seed": list(range(1, 7)),
        "tone": ["lively", "", "plain", "neutral", b"\xff", "no such tone"],
        "topic": ["sports", "", "", "word " * 3000, odd, " \n "],
    }
