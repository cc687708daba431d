"""JSON as TensorFlow Serving writes it: floats in their shortest digits, bare NaN, text without \\u escapes.

Follows json_tensor.cc of TensorFlow Serving. In a str, bytes that are not UTF-8 are lone surrogates
(`surrogateescape`): such bytes are sent unchanged, and the body is then not valid UTF-8.
"""

import base64
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring  # type: ignore[attr-defined]
from typing import Any

import numpy as np

from genre_tf.serving.embedded.statuses import invalid_argument

_DEBUG_LIMIT = 256  # bytes of a value that an error message quotes
_DIGITS = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}


def error_body(message: str) -> bytes:
    """The body of an error answer."""
    return _encode('{\n    "error": ' + encode_basestring(message) + "\n}")


def row_body(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The body of a row answer: `predictions`, one entry per row.

    Raises:
        ServingError: an output has no rows, or another number of rows than the others.
    """
    rows: int | None = None
    for name, value in outputs.items():
        if value.ndim == 0:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if rows is not None and rows != value.shape[0]:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {value.shape[0]} expecting: {rows}"
            )
        rows = value.shape[0]
    columns = {name: _row_texts(name, value) for name, value in outputs.items()}
    if len(columns) == 1:
        entries = next(iter(columns.values()))
    else:
        keys = [encode_basestring(name) + ": " for name in columns]
        entries = [
            "{" + ", ".join(key + text for key, text in zip(keys, row, strict=True)) + "}"
            for row in zip(*columns.values(), strict=True)
        ]
    return _encode('{\n    "predictions": [' + ",\n        ".join(entries) + "\n    ]\n}")


def column_body(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The body of a column answer: `outputs`, one entry per output."""
    texts = {name: _nested(_element_texts(name, value), value.shape) for name, value in outputs.items()}
    if len(texts) == 1:
        body = next(iter(texts.values()))
    else:
        pairs = (f"        {encode_basestring(name)}: {text}" for name, text in texts.items())
        body = "{\n" + ",\n".join(pairs) + "\n    }"
    return _encode('{\n    "outputs": ' + body + "\n}")


def results_body(entries: Sequence[str]) -> bytes:
    """The body of a Classify or Regress answer, from one JSON text per row."""
    return _encode('{\n    "results": [' + ", ".join(entries) + "]\n}")


def float_texts(values: np.ndarray) -> list[str]:
    """Floats as text: six digits if they restore the float, otherwise all; whole numbers end in `.0`."""
    flat = values.ravel()
    numbers = flat.astype(np.float64).tolist()
    short = [f"{number:g}" for number in numbers]
    with np.errstate(over="ignore"):
        exact = np.array(short, np.float64).astype(flat.dtype) == flat
    digits = _DIGITS[flat.dtype]
    return [
        _with_point(text if same else f"{number:.{digits}g}")
        if math.isfinite(number)
        else _not_finite(number)
        for number, text, same in zip(numbers, short, exact.tolist(), strict=True)
    ]


def debug_text(value: Any) -> str:
    """A value of the request as error messages quote it: indented, cut after about 256 bytes."""
    parts: list[str] = []
    with contextlib.suppress(_Full):
        _write_debug(value, 0, parts)
    return "".join(parts)


class _Full(Exception):
    """The quoted value has reached its limit."""


def _write_debug(value: Any, level: int, parts: list[str]) -> None:
    def put(text: str, separator: str = "") -> None:
        if sum(len(part.encode("utf-8", "surrogateescape")) for part in parts) >= _DEBUG_LIMIT:
            raise _Full
        parts.append(separator + text)

    if isinstance(value, dict):
        put("{")
        inner = "\n" + "    " * (level + 1)
        for position, (name, member) in enumerate(value.items()):
            put(encode_basestring(name), ("," if position else "") + inner)
            parts.append(": ")
            _write_debug(member, level + 1, parts)
        put("}", "\n" + "    " * level if value else "")
    elif isinstance(value, list):
        put("[")
        for position, member in enumerate(value):
            if position:
                parts.append(", ")
            _write_debug(member, level + 1, parts)
        put("]")
    else:
        put(_debug_scalar(value))


def _debug_scalar(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""  # RapidJSON's writer refuses NaN and infinity
        return repr(value).replace("e+", "e")
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return str(value)


def _row_texts(name: str, value: np.ndarray) -> list[str]:
    texts = _element_texts(name, value)
    width = math.prod(value.shape[1:])
    rows = range(value.shape[0])
    return [_nested(texts[row * width : (row + 1) * width], value.shape[1:]) for row in rows]


def _element_texts(name: str, value: np.ndarray) -> list[str]:
    flat = value.ravel()
    if flat.dtype in _DIGITS:
        return float_texts(flat)
    if flat.dtype == np.object_:
        write = _base64_text if name.endswith("_bytes") else string_text
        return [write(element) for element in flat.tolist()]
    if flat.dtype == np.bool_:
        return ["true" if element else "false" for element in flat.tolist()]
    if flat.dtype.kind in "iu":
        return [str(element) for element in flat.tolist()]
    raise invalid_argument(f"Failed to write JSON value for tensor type: {flat.dtype.name}")


def _nested(texts: Sequence[str], shape: Sequence[int]) -> str:
    if not shape:
        return texts[0]
    if len(shape) == 1:
        return "[" + ", ".join(texts) + "]"
    width = math.prod(shape[1:])
    return (
        "[" + ", ".join(_nested(texts[i * width : (i + 1) * width], shape[1:]) for i in range(shape[0])) + "]"
    )


def string_text(element: bytes) -> str:
    """A string as JSON; bytes that are not UTF-8 are kept."""
    encode: Callable[[str], str] = encode_basestring
    return encode(element.decode("utf-8", "surrogateescape"))


def _base64_text(element: bytes) -> str:
    return '{"b64": "' + base64.b64encode(element).decode("ascii") + '"}'


def _with_point(text: str) -> str:
    return text if "." in text or "e" in text else text + ".0"


def _not_finite(number: float) -> str:
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
