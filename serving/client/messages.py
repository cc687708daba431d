"""The messages of Predict, and their tensors <-> NumPy <-> JSON.

The messages of `tensorflow_serving` import TensorFlow, which takes seconds. Only the fields that the clients
use are declared, with TensorFlow Serving's names and numbers; protobuf keeps other fields of an answer
unread. TensorFlow is only imported for rare types.
"""

import math
from typing import Any

import numpy as np

from genre_tf.protobuf import declared

PREDICT = "/tensorflow.serving.PredictionService/Predict"

# TensorFlow's DataType.
FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING, INT64, BOOL = 1, 2, 3, 4, 5, 6, 7, 9, 10
UINT32, UINT64 = 22, 23


_PREDICT: dict[str, dict[str, tuple[int, str]]] = {
    "Dim": {"size": (1, "int64")},
    "TensorShapeProto": {"dim": (2, "repeated Dim"), "unknown_rank": (3, "bool")},
    "TensorProto": {
        "dtype": (1, "int32"),  # an enum, which is an int32 on the wire
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "repeated float"),
        "double_val": (6, "repeated double"),
        "int_val": (7, "repeated int32"),
        "string_val": (8, "repeated bytes"),
        "int64_val": (10, "repeated int64"),
        "bool_val": (11, "repeated bool"),
        "uint32_val": (16, "repeated uint32"),
        "uint64_val": (17, "repeated uint64"),
    },
    "Int64Value": {"value": (1, "int64")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Int64Value"),
        "signature_name": (3, "string"),
        "version_label": (4, "string"),
    },
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "map TensorProto")},
    "PredictResponse": {"outputs": (1, "map TensorProto"), "model_spec": (2, "ModelSpec")},
}
_messages = declared(_PREDICT)
PredictRequest, PredictResponse = _messages["PredictRequest"], _messages["PredictResponse"]

# Limits the declared shape: a request of 20 bytes could ask for terabytes of repeated values.
MAX_ELEMENTS = 1 << 26

_FIELDS: dict[int, tuple[str, Any]] = {
    FLOAT: ("float_val", np.float32),
    DOUBLE: ("double_val", np.float64),
    INT32: ("int_val", np.int32),
    INT16: ("int_val", np.int16),
    INT8: ("int_val", np.int8),
    UINT8: ("int_val", np.uint8),
    INT64: ("int64_val", np.int64),
    UINT32: ("uint32_val", np.uint32),
    UINT64: ("uint64_val", np.uint64),
    BOOL: ("bool_val", np.bool_),
    STRING: ("string_val", np.object_),
}
_ENUMS = {np.dtype(dtype): (enum, field) for enum, (field, dtype) in _FIELDS.items()}


def to_array(proto: Any) -> np.ndarray:
    """Convert a TensorProto, of TensorFlow or of this module, as TensorFlow's C++ does.

    Raises:
        ValueError: shape, type and content do not match, or the shape is too large.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    size = math.prod(shape)
    if proto.tensor_shape.unknown_rank or any(length < 0 for length in shape) or size > MAX_ELEMENTS:
        raise ValueError(f"the shape is unknown, negative or too large: {shape}")
    field, dtype = _FIELDS.get(proto.dtype, ("", None))
    if dtype is None or (proto.tensor_content and dtype is np.object_):
        import tensorflow as tf

        try:
            return tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype)).numpy()
        except (tf.errors.OpError, TypeError) as error:
            raise ValueError(str(error)) from error
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)  # ValueError if the size differs
    given = getattr(proto, field)
    if dtype is np.object_:
        values = np.empty(len(given), object)
        values[:] = list(given)
    elif dtype in (np.int8, np.int16, np.uint8):  # int_val has 32 bits: C++ truncates, NumPy would refuse
        values = np.array(given, np.int32).astype(dtype)
    else:
        values = np.array(given, dtype)
    values = values[:size]
    if len(values) < size:  # short lists repeat their last value
        last = values[-1:] if len(values) else np.array([b""] if dtype is np.object_ else [0], dtype)
        values = np.concatenate([values, np.repeat(last, size - len(values))])
    return values.reshape(shape)


def write_proto(array: np.ndarray, proto: Any) -> None:
    """Write an array into an empty TensorProto, in the typed fields that TensorFlow Serving uses."""
    if array.dtype not in _ENUMS:
        import tensorflow as tf

        proto.ParseFromString(tf.make_tensor_proto(array).SerializeToString())
        return
    proto.dtype, field = _ENUMS[array.dtype]
    proto.tensor_shape.SetInParent()  # even a scalar has a shape, an empty one
    for length in array.shape:
        proto.tensor_shape.dim.add(size=length)
    getattr(proto, field).extend(array.ravel().tolist())


def write_json(array: np.ndarray) -> list[Any]:
    """An array as REST takes it: nested lists of numbers or text; ValueError if its bytes are not UTF-8."""
    if array.dtype == np.object_:
        array = np.frompyfunc(bytes.decode, 1, 1)(array)
    return array.tolist()


def read_json(values: Any) -> np.ndarray:
    """Convert nested lists of a REST answer to an array: of bytes, booleans or, for any number, float32.

    Lists of unequal lengths or elements are a ValueError or a TypeError.
    """
    first = values
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, str):
        return np.frompyfunc(lambda text: text.encode("utf-8", "replace"), 1, 1)(np.array(values, object))
    return np.array(values, np.bool_ if isinstance(first, bool) else np.float32)
