"""Warmup: answer the recorded requests of an export before its version becomes available.

Follows saved_model_warmup.cc and saved_model_warmup_util.cc of TensorFlow Serving.
"""

from collections.abc import Iterator
from pathlib import Path

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from genre_tf.contract import ASSETS_FOLDER, MOST_WARMUP_RECORDS, WARMUP_FILE
from genre_tf.serving.inference import classify, multi_inference, regress
from genre_tf.serving.prediction import answer_predict
from genre_tf.serving.servable import Servable
from genre_tf.serving.statuses import ServingError, from_tensorflow, invalid_argument

# Far above 1,000 of our requests (at most about 100 kB each), far below the memory of a laptop.
MOST_FILE_BYTES = 256 << 20

_ANSWERS = {
    "predict_log": answer_predict,
    "classify_log": classify,
    "regress_log": regress,
    "multi_inference_log": multi_inference,
}


def replay_warmup(servable: Servable, folder: Path) -> int | None:
    """Answer the warmup requests of a version, so that its first real request is not slow.

    Args:
        servable: the loaded version.
        folder: folder of its SavedModel.

    Returns:
        Number of replayed records; None if there is no warmup file, which is optional.

    Raises:
        ServingError: a record cannot be read or answered, or there are more records than TensorFlow Serving
            accepts. It does not serve such a version.
    """
    file = folder / ASSETS_FOLDER / WARMUP_FILE
    if not file.is_file():
        return None
    if file.stat().st_size > MOST_FILE_BYTES:
        raise invalid_argument(
            f"{file} has {file.stat().st_size} bytes; warmup replays at most {MOST_FILE_BYTES}"
        )
    count = 0
    for record in _records(file):
        if count == MOST_WARMUP_RECORDS:
            raise invalid_argument(
                f"Number of warmup records exceeds the maximum ({MOST_WARMUP_RECORDS}) at {file}"
            )
        _replay(servable, record, file)
        count += 1
    return count


def _records(file: Path) -> Iterator[bytes]:
    try:
        yield from tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    except tf.errors.DataLossError as error:
        text = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise ServingError(grpc.StatusCode.DATA_LOSS, text) from error
    except tf.errors.OpError as error:
        raise from_tensorflow(error) from error


def _replay(servable: Servable, record: bytes, file: Path) -> None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        raise invalid_argument(f"Failed to parse warmup record: {record[:100]!r} from {file}") from error
    kind = log.WhichOneof("log_type")
    if kind is None:  # nothing to run; TensorFlow Serving ignores it too
        return
    if kind not in _ANSWERS:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        text = f"Unsupported log_type for warmup: {number}"
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, text)
    _ANSWERS[kind](servable, getattr(log, kind).request)
