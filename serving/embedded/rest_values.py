"""The values of REST, as TensorFlow Serving reads and writes them: JSON to tensors, and tensors to JSON."""

import base64
import binascii
import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.serving.embedded.errors import invalid_argument

_MOST_DIMENSIONS = 32
_quoted = reprlib.repr  # values of a request are quoted in part


def parse_document(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. NaN, Infinity and -Infinity are numbers, as in TensorFlow Serving."""

    def number(text: str) -> float:
        if math.isinf(value := float(text)):
            raise ValueError(f"the number {_quoted(text)} is too large")
        return value

    try:
        document = json.loads(body, parse_float=number)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise invalid_argument(f"the body must be a JSON object; got {_quoted(document)}")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(f"signature_name must be a string; got {_quoted(name)}")
    return document


def read_tensors(
    document: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], bool]:
    """Input name -> array of a Predict request, and whether it is in row form; `inputs` are TensorInfos."""
    in_rows = "instances" in document
    if in_rows == ("inputs" in document):
        raise invalid_argument("a request has either rows in `instances` or columns in `inputs`")
    if in_rows:
        columns = _columns_of_rows(document["instances"], inputs)
    elif isinstance(columns := document["inputs"], dict) and not _is_bytes(columns):
        missing = sorted(set(inputs) - set(columns))
        if missing:
            raise invalid_argument(f"`inputs` lacks {', '.join(missing)}")
    else:
        columns = {_sole(inputs): columns}
    return {name: _array(name, columns[name], info.dtype) for name, info in inputs.items()}, in_rows


def read_examples(document: Mapping[str, Any]) -> list[tf.train.Example]:
    """The tf.Examples of a Regress request; the features of `context` belong to each of them."""
    examples, context = document.get("examples"), document.get("context", {})
    if not isinstance(examples, list) or not examples:
        raise invalid_argument("a request of regress has a list of at least one example in `examples`")
    if not all(isinstance(one, dict) for one in (*examples, context)):
        raise invalid_argument("each example, and `context`, must be an object of features")
    try:
        return [_example({**context, **one}) for one in examples]
    except ValueError as error:
        raise invalid_argument(
            f"a feature must have strings, whole numbers or numbers with a fraction, of one kind: {error}"
        ) from None


def write_rows(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The answer to a request in row form: `predictions`, one entry per row."""
    rows_of_outputs = {value.shape[:1] for value in outputs.values()}
    if len(rows_of_outputs) != 1 or () in rows_of_outputs:
        shapes = {name: list(value.shape) for name, value in outputs.items()}
        raise invalid_argument(f"the outputs have no equal number of rows ({shapes}): ask with `inputs`")
    columns = [_values(name, value) for name, value in outputs.items()]
    if len(columns) == 1:
        return write_json({"predictions": columns[0]})
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]
    return write_json({"predictions": rows})


def write_columns(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The answer to a request in column form: `outputs`, without a name if there is only one."""
    columns = {name: _values(name, value) for name, value in outputs.items()}
    return write_json({"outputs": columns if len(columns) > 1 else next(iter(columns.values()))})


def write_json(content: Any) -> bytes:
    """JSON with NaN and infinities as bare words; bytes that are not UTF-8 are sent unchanged."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogateescape")


def shortest_floats(values: np.ndarray) -> list[Any]:
    """Nested lists of floats that are written with as few digits as restore the value in its own type."""
    return values.astype(str).astype(np.float64).tolist()


def _columns_of_rows(rows: Any, inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        raise invalid_argument(f"`instances` must be a list of at least one row; got {_quoted(rows)}")
    named = [isinstance(row, dict) and not _is_bytes(row) for row in rows]
    if not any(named):
        return {_sole(inputs): rows}
    for number, row in enumerate(rows):
        if not named[number] or row.keys() != inputs.keys():
            raise invalid_argument(
                f"row {number} of `instances` must be an object of {sorted(inputs)}; got {_quoted(row)}"
            )
    return {name: [row[name] for row in rows] for name in inputs}


def _sole(inputs: Mapping[str, Any]) -> str:
    if len(inputs) != 1:
        raise invalid_argument(
            f"this signature has several inputs, give each by name: {', '.join(sorted(inputs))}"
        )
    return next(iter(inputs))


def _array(name: str, value: Any, dtype: int) -> np.ndarray:
    kind = tf.dtypes.as_dtype(dtype)
    try:
        given = np.array(value, object)  # lists of unequal lengths stay elements
        if given.ndim > _MOST_DIMENSIONS:
            raise ValueError(f"lists must be nested at most {_MOST_DIMENSIONS} deep")
        allowed = {bool} if kind.is_bool else {int} if kind.is_integer else {int, float}
        for element in given.flat:
            if isinstance(element, list):
                raise ValueError("lists must be nested equally and be equally long")
            if kind != tf.string and type(element) not in allowed:
                raise ValueError(f"a value must be {kind.name}; got {_quoted(element)}")
        if kind == tf.string:
            return np.frompyfunc(_bytes, 1, 1)(given) if given.ndim else np.array(_bytes(value), object)
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, as in C++
            return given.astype(kind.as_numpy_dtype)
    except OverflowError:
        raise invalid_argument(f"input {name}: a number is too large for {kind.name}") from None
    except ValueError as error:
        raise invalid_argument(f"input {name}: {error}") from None


def _is_bytes(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _bytes(value: Any) -> bytes:
    """The bytes of a string or of {"b64": …}, with the standard alphabet and optional padding."""
    if isinstance(value, str):
        return value.encode()
    if not _is_bytes(value) or not isinstance(value["b64"], str):
        raise ValueError(f'a value must be a string or {{"b64": …}}; got {_quoted(value)}')
    text = value["b64"].rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{_quoted(value)} is not base64: {error}") from None


def _example(features: Mapping[str, Any]) -> tf.train.Example:
    example = tf.train.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        values = values if isinstance(values, list) else [values]
        if all(isinstance(value, float) for value in values):
            feature.float_list.value.extend(values)
        elif all(isinstance(value, int) for value in values):
            feature.int64_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(map(_bytes, values))
    return example


def _values(name: str, value: np.ndarray) -> Any:
    if value.dtype.kind == "f":
        return shortest_floats(value)
    if value.dtype != np.object_:
        return value.tolist()

    def write(element: bytes) -> Any:
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(element).decode("ascii")}
        return element.decode("utf-8", "surrogateescape")

    return np.frompyfunc(write, 1, 1)(value).tolist() if value.ndim else write(value.item())
