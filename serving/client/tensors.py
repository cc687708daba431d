"""TensorProto <-> NumPy, as in TensorFlow's C++: short value lists repeat their last value. JSON <-> NumPy.

A `proto` is TensorFlow's own message or that of `messages`. TensorFlow is only imported for rare types.
"""

import math
from typing import Any

import numpy as np

from genre_tf.serving.client import messages

# Limits the declared shape: a request of 20 bytes could ask for terabytes of repeated values.
MAX_ELEMENTS = 1 << 26

_FIELDS: dict[int, tuple[str, Any]] = {
    messages.FLOAT: ("float_val", np.float32),
    messages.DOUBLE: ("double_val", np.float64),
    messages.INT32: ("int_val", np.int32),
    messages.INT16: ("int_val", np.int16),
    messages.INT8: ("int_val", np.int8),
    messages.UINT8: ("int_val", np.uint8),
    messages.INT64: ("int64_val", np.int64),
    messages.UINT32: ("uint32_val", np.uint32),
    messages.UINT64: ("uint64_val", np.uint64),
    messages.BOOL: ("bool_val", np.bool_),
    messages.STRING: ("string_val", np.object_),
}
_ENUMS = {np.dtype(dtype): (enum, field) for enum, (field, dtype) in _FIELDS.items()}


def to_array(proto: Any) -> np.ndarray:
    """Convert a TensorProto to an array.

    Raises:
        ValueError: shape, type and content do not match, or the shape is too large.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    size = math.prod(shape)
    if proto.tensor_shape.unknown_rank or any(length < 0 for length in shape) or size > MAX_ELEMENTS:
        raise ValueError(f"the shape is unknown, negative or too large: {shape}")
    field, dtype = _FIELDS.get(proto.dtype, ("", None))
    if dtype is None or (proto.tensor_content and dtype is np.object_):
        return _by_tensorflow(proto)
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)  # ValueError if the size differs
    values = _values(getattr(proto, field), dtype)[:size]
    if len(values) < size:
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
    """An array as REST takes it: nested lists of numbers, or of text, if its bytes are UTF-8.

    Raises:
        ValueError: bytes are not UTF-8.
    """
    if array.dtype == np.object_:
        array = np.frompyfunc(bytes.decode, 1, 1)(array)
    return array.tolist()


def read_json(values: Any) -> np.ndarray:
    """Convert nested lists of a REST answer to an array: of bytes, booleans or, for any number, float32.

    Raises:
        ValueError: the lists differ in length, or their elements in type.
        TypeError: there is something else in them.
    """
    first = values
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, str):
        return np.frompyfunc(lambda text: text.encode("utf-8", "replace"), 1, 1)(np.array(values, object))
    return np.array(values, np.bool_ if isinstance(first, bool) else np.float32)


def _values(field: Any, dtype: Any) -> np.ndarray:
    if dtype is np.object_:
        values = np.empty(len(field), object)
        values[:] = list(field)
        return values
    if dtype in (np.int8, np.int16, np.uint8):  # int_val has 32 bits: C++ truncates, NumPy would refuse
        return np.array(field, np.int32).astype(dtype)
    return np.array(field, dtype)


def _by_tensorflow(proto: Any) -> np.ndarray:
    import tensorflow as tf

    try:
        return tf.io.parse_tensor(proto.SerializeToString(), tf.dtypes.as_dtype(proto.dtype)).numpy()
    except (tf.errors.OpError, TypeError) as error:
        raise ValueError(str(error)) from error
