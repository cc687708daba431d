"""The tensors of a REST Predict request, in row form (`instances`) or column form (`inputs`).

Follows json_tensor.cc of TensorFlow Serving, its error texts included.
"""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2

from genre_tf.serving.client.tensors import type_name
from genre_tf.serving.embedded.json_parser import parse_json
from genre_tf.serving.embedded.json_writer import debug_text
from genre_tf.serving.embedded.statuses import ServingError, invalid_argument

_MAX_RANK = 60  # numpy allows at most 64 dimensions
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_JSON_TYPES = {
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
    type(None): "Null",
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value < high


_INT32 = _is_integer(-(2**31), 2**31)
# type -> (whether it takes a JSON value, dtype of the array that gathers values, dtype of the array to feed)
_TYPES: dict[int, tuple[Callable[[Any], bool], Any, Any]] = {
    types_pb2.DT_FLOAT: (_is_number, np.float64, np.float32),
    types_pb2.DT_DOUBLE: (_is_number, np.float64, np.float64),
    types_pb2.DT_INT32: (_INT32, np.int32, np.int32),
    types_pb2.DT_INT16: (_INT32, np.int32, np.int16),
    types_pb2.DT_INT8: (_INT32, np.int32, np.int8),
    types_pb2.DT_UINT8: (_INT32, np.int32, np.uint8),
    types_pb2.DT_STRING: (lambda value: isinstance(value, str), np.object_, np.object_),
    types_pb2.DT_INT64: (_is_integer(-(2**63), 2**63), np.int64, np.int64),
    types_pb2.DT_BOOL: (lambda value: isinstance(value, bool), np.bool_, np.bool_),
    types_pb2.DT_UINT32: (_is_integer(0, 2**32), np.uint32, np.uint32),
    types_pb2.DT_UINT64: (_is_integer(0, 2**64), np.uint64, np.uint64),
}


def parse_request(body: bytes) -> dict[str, Any]:
    """The JSON object of any REST request.

    Raises:
        ServingError: the body is not JSON or not an object, or its signature name is not a string.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {debug_text(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid_argument(
            f"JSON Value: {debug_text(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return document


def read_tensors(document: dict[str, Any], inputs: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a Predict request.

    Args:
        document: the JSON object.
        inputs: input name -> TensorInfo, from the signature.

    Returns:
        Input name -> array, and whether the request is in row form.

    Raises:
        ServingError: the request does not fit the signature.
    """
    if "instances" in document and "inputs" in document:
        raise invalid_argument(
            f"JSON Value: {debug_text(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid_argument(
                f"JSON Value: {debug_text(document)} Expecting 'instances' to be an list/array"
            )
        if not instances:
            raise invalid_argument(f"JSON Value: {debug_text(document)} No values in 'instances' array")
        return _rows(instances, inputs), True
    if "inputs" in document:
        return _columns(document["inputs"], inputs), False
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def is_base64(value: Any) -> bool:
    """Whether a JSON value is bytes: `{"b64": "…"}`."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decode_base64(value: Any) -> bytes:
    """The bytes of `{"b64": "…"}`, standard alphabet, padding optional.

    Raises:
        ServingError: the value has another form.
    """
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {debug_text(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    if not _BASE64.fullmatch(text) or len(text.rstrip("=")) % 4 == 1:
        raise invalid_argument("Unable to base64 decode")
    bare = text.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % 4))


def json_type(value: Any) -> str:
    """RapidJSON's name for the type of a value."""
    if isinstance(value, bool):
        return str(value)
    return _JSON_TYPES[type(value)]


def to_bytes(text: str) -> bytes:
    """The bytes of a JSON string, as the client sent them."""
    return text.encode("utf-8", "surrogateescape")


def _rows(instances: list[Any], inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required "
            "as per tensorinfo_map"
        )
    named = _is_named(instances[0])
    gathered: dict[str, _Gathered] = {name: _Gathered(info.dtype) for name, info in inputs.items()}
    expected = sorted(inputs)
    for position, instance in enumerate(instances):
        if named != _is_named(instance):
            raise invalid_argument(
                f"Expecting object but got list at item {position} of input list"
                if named
                else f"Expecting value/list but got object at item {position} of input list"
            )
        if not named:
            _add(gathered, expected[0], instance, f"Failed to process element: {position}")
            continue
        for name, value in instance.items():
            _add(gathered, name, value, f"Failed to process element: {position} key: {name}")
        if instance.keys() != inputs.keys():
            raise invalid_argument(
                f"Failed to process element: {position} of 'instances' list. JSON object: "
                f"{debug_text(instance)} keys must be equal to: {','.join(expected)}"
            )
    return {name: part.array([len(instances)]) for name, part in gathered.items() if part.shape is not None}


def _columns(value: Any, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if _is_named(value):
        for name in sorted(inputs):
            if name not in value:
                raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        named = {name: value[name] for name in inputs}
    elif len(inputs) > 1:
        raise invalid_argument(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required "
            "as per tensorinfo_map"
        )
    else:
        named = dict.fromkeys(inputs, value)
    arrays = {}
    for name, content in named.items():
        part = _Gathered(inputs[name].dtype)
        part.add(content)
        arrays[name] = part.array([])
    return arrays


def _add(gathered: dict[str, "_Gathered"], name: str, value: Any, where: str) -> None:
    try:
        if name not in gathered:
            raise invalid_argument(f"JSON object: does not have named input: {name}")
        gathered[name].add(value)
    except ServingError as error:
        raise invalid_argument(f"{where} of 'instances' list. Error: {error.text}") from error


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


class _Gathered:
    """The values of one input, gathered over the rows of a request."""

    def __init__(self, dtype: int) -> None:
        self.shape: list[int] | None = None
        self._dtype = dtype
        self._values: list[Any] = []

    def add(self, value: Any) -> None:
        """Add the value of one more row."""
        shape = _shape(value)
        if len(shape) > _MAX_RANK:
            raise invalid_argument(f"Lists are nested {len(shape)} deep; the limit is {_MAX_RANK}")
        before = len(self._values)
        self._fill(value, 0, shape)
        size = len(self._values) - before
        if self.shape is None:
            self.shape, self._size = shape, size
        elif size != self._size:
            raise invalid_argument(f"Expecting tensor size: {self._size} but got: {size}")
        elif shape != self.shape:
            raise invalid_argument(f"Expecting shape {_shape_text(self.shape)} but got: {_shape_text(shape)}")

    def array(self, leading: list[int]) -> np.ndarray:
        """All values as one array of shape [*leading, *shape of a row]."""
        _, gather, feed = _TYPES.get(self._dtype, (None, np.float64, np.float64))
        values = np.empty(len(self._values), gather)
        values[:] = self._values
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, as in C++
            return values.astype(feed, copy=False).reshape([*leading, *(self.shape or [])])

    def _fill(self, value: Any, level: int, shape: list[int]) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                raise invalid_argument(
                    f"JSON Value: {debug_text(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                    f"Expected at level: {len(shape)}"
                )
            self._values.append(self._scalar(value))
            return
        if level >= len(shape):
            raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid_argument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} "
                f"expected size: {shape[level]}"
            )
        for member in value:
            self._fill(member, level + 1, shape)

    def _scalar(self, value: Any) -> Any:
        if self._dtype == types_pb2.DT_STRING:
            if isinstance(value, str):
                return to_bytes(value)
            if isinstance(value, dict):
                return decode_base64(value)
        elif self._dtype not in _TYPES and not isinstance(value, dict):
            raise ServingError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Conversion of JSON Value: {debug_text(value)} to type: {type_name(self._dtype)}",
            )
        elif self._dtype in _TYPES and _TYPES[self._dtype][0](value):
            return value
        raise invalid_argument(
            f"JSON Value: {debug_text(value)} Type: {json_type(value)} is not of expected type: "
            f"{type_name(self._dtype)}"
        )


def _shape(value: Any) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _shape_text(shape: list[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
