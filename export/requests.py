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
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, regression_pb2

from genre_tf.contract import (
    COUNTED,
    COUNTERS,
    EXAMPLES_INPUT,
    MOST_WARMUP_RECORDS,
    RECOMMENDER,
    SIGNATURES,
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


def write_warmup(file: Path, servable: str, examples: Mapping[str, Rows], batch_sizes: Sequence[int]) -> None:
    """Write one request for each signature and batch size.

    Args:
        file: file to write, in the version's `assets.extra`.
        servable: name of the servable.
        examples: signature to its inputs, name to array [rows]; rows are repeated up to each batch size.
        batch_sizes: numbers of rows in the requests.

    Raises:
        InputError: there are more records than TensorFlow Serving accepts.
    """
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
    """Read warmup records as exchanges without answers.

    Raises:
        InputError: the file is missing or damaged.
    """
    if not file.is_file():
        raise InputError(f"no warmup requests at {file}: export again")
    exchanges = []
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            exchanges.append(_exchange(prediction_log_pb2.PredictionLog.FromString(record)))
    except (tf.errors.DataLossError, DecodeError) as error:
        raise InputError(f"{file} is damaged ({str(error).splitlines()[0]}): export again") from None
    if not exchanges:
        raise InputError(f"{file} has no requests: export again")
    return exchanges


def _exchange(log: prediction_log_pb2.PredictionLog) -> Exchange:
    if log.WhichOneof("log_type") == "regress_log":
        request = log.regress_log.request
        examples = request.input.example_list.examples
        inputs = {EXAMPLES_INPUT: as_bytes([example.SerializeToString() for example in examples])}
    else:
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    rows = len(next(iter(inputs.values()), ()))
    return Exchange(request.model_spec.signature_name, f"warmup, batch {rows}", inputs)


def _record(servable: str, signature: str, inputs: Rows) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    if set(inputs) == {EXAMPLES_INPUT}:
        request = regression_pb2.RegressionRequest()
        for example in inputs[EXAMPLES_INPUT]:
            request.input.example_list.examples.add().ParseFromString(example)
    else:
        request = predict_pb2.PredictRequest()
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    request.model_spec.name = servable
    request.model_spec.signature_name = signature
    place = log.regress_log if set(inputs) == {EXAMPLES_INPUT} else log.predict_log
    place.request.CopyFrom(request)
    return log


def recorded_requests(servable: str, catalogue: Catalogue, seed: int = 0) -> list[Exchange]:
    """Requests without answers for every signature: a usual row alone, and all kinds of rows in one batch.

    Args:
        servable: name of the servable.
        catalogue: articles to ask about.
        seed: seed of the random choice of articles.
    """
    rows = _Rows(catalogue, seed)
    return [
        Exchange(name, case, rows.inputs(signature, usual))
        for name, signature in SIGNATURES[servable].items()
        for case, usual in (("alone", True), ("all kinds of rows", False))
    ]


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
    rows = _Rows(catalogue, 0)
    return {name: rows.inputs(signature, usual=True) for name, signature in SIGNATURES[servable].items()}


def example(**features: Sequence[str | bytes]) -> bytes:
    """A serialized `tf.Example` of bytes features."""
    built = tf.train.Example()
    for name, values in features.items():
        built.features.feature[name].bytes_list.value.extend(as_bytes(values))
    return bytes(built.SerializeToString(deterministic=True))


class _Rows:
    """Rows of requests as columns: for each input the value of a usual row, and then those of odd rows."""

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self.catalogue = catalogue
        self.random = np.random.default_rng(seed)
        numbers = [
            self._numbers(_CANDIDATES),
            "1 x -3 nan 1e3 inf",
            "",
            "5 6 7",
            "1e99 .5 +2.",
            _ODD_BYTES,
        ]
        self.columns: dict[str, list[Any]] = {
            **self._ids_in_rows(),
            **self._texts_in_rows(),
            **dict.fromkeys(COUNTERS, numbers),
            "views": [numbers[0], *numbers[:0:-1]],
            "kind": ["title", "title", "summary", "body", b"\xff", "no such kind"],
            "seed": list(range(1, 7)),
        }

    def inputs(self, signature: Signature, usual: bool) -> Rows:
        """The usual row, or all rows."""
        columns = {one.name: self.columns[one.name][: 1 if usual else None] for one in signature.inputs}
        return {
            one.name: as_bytes(columns[one.name])
            if one.dtype == "string"
            else np.array(columns[one.name], one.dtype)
            for one in signature.inputs
        }

    def _ids_in_rows(self) -> dict[str, list[Any]]:
        history, twice = self._ids(_HISTORY), self._ids(2)
        candidates = [
            self._ids(_CANDIDATES),
            self._ids(1),
            "",
            f"{twice} no_such_article {twice}",
            self._ids(100),
            _ODD_BYTES + b" " + self._ids(1).encode(),
        ]
        histories = [
            history,
            "",
            self._ids(1),
            "no_such_article " + self._ids(3) + " nor_this",
            self._ids(_LONG_HISTORY),
            _ODD_BYTES + b"  " + self._ids(2).encode() + b"\t\n",
        ]
        examples = [
            example(history=[history], candidate=[self._ids(1)]),
            b"",
            example(history=self._ids(3).split()),
            example(history=self._ids(3).split(), candidate=[self._ids(2)], another=["feature"]),
            example(candidate=["no_such_article", self._ids(1)]),
            example(history=[_ODD_BYTES, self._ids(2)], candidate=["", self._ids(1), _ODD_BYTES]),
        ]
        return {
            "history": histories,
            "candidates": candidates,
            "news_id": candidates,
            EXAMPLES_INPUT: examples,
        }

    def _texts_in_rows(self) -> dict[str, list[Any]]:
        title, odd = self._titles(1), _ODD_BYTES + "\n新闻 😀".encode()
        return {
            "history_text": [
                self._titles(_HISTORY),
                "",
                "An article that no index knows",
                "\n\n  \n" + self._titles(2) + "\r\n\n",
                self._titles(200),
                _ODD_BYTES + b"\n" + self._titles(1).encode() + "\n新闻 😀".encode(),
            ],
            "candidates_text": [
                self._titles(_CANDIDATES),
                title,
                "",
                f"{title}\n\n{title}\n",
                "新闻 😀\n" + "very " * 500 + "long",
                _ODD_BYTES,
            ],
            "text": [title, "", " ", "word " * 2000, "新闻 😀", _ODD_BYTES],
            "source": [
                self._titles(3),
                "",
                "",
                "word " * 3000,
                odd,
                'On 5 May 2031 the mayor said: "We will rebuild."',
            ],
            "question": [f"What is new about {title}?", title, "", " \n ", "What " * 3000, odd],
        }

    def _ids(self, count: int) -> str:
        return " ".join(self.catalogue.news_ids[row] for row in self._chosen(count))

    def _titles(self, count: int) -> str:
        return "\n".join(" ".join(self.catalogue.titles[row].split()) for row in self._chosen(count))

    def _chosen(self, count: int) -> list[int]:
        size = len(self.catalogue.news_ids)
        return self.random.integers(1, size, count).tolist() if size > 1 else []

    def _numbers(self, count: int) -> str:
        return " ".join(str(number) for number in self.random.integers(0, 500, count))
