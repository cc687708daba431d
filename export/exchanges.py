"""Requests in files: recorded ones with the Python model's answers, and those for warmup.

`genre verify` replays both: one bad warmup record prevents a version from loading (observed on TensorFlow
Serving). TensorFlow Serving answers the warmup requests when it loads a version, so that no user's request is
slow.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, regression_pb2

from genre_tf.contract import EXAMPLES_INPUT, MOST_WARMUP_RECORDS
from genre_tf.errors import InputError
from genre_tf.export.replay import read_records

PARITY_FILE = "parity.npz"

Rows = Mapping[str, np.ndarray]


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
