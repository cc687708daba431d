"""JSON as RapidJSON, the parser of TensorFlow Serving, reads it: same errors, at the same offsets.

The standard library's parser is about fifty times faster and agrees on well-formed documents, so it is tried
first; the parser here reads documents on which the two could differ, and reports the error if there is one.
"""

import json
import re
from typing import Any, NoReturn

from genre_tf.serving.embedded.statuses import invalid_argument

MAX_DEPTH = 256  # TensorFlow's tensors have at most 254 dimensions

# RapidJSON refuses these, the standard library does not: numbers beyond a double, half a surrogate pair.
_DOUBTFUL = re.compile(rb"\d[eE]\+?0*\d{3}|\d{300}|\\u[dD][89a-fA-F]")
_SPACES = (b" ", b"\t", b"\r", b"\n")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_STRING_STOP = re.compile(rb'["\\\x00-\x1f]')
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES = dict(zip(b'"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True))
_LITERALS: dict[int, tuple[bytes, Any]] = {
    ord("n"): (b"null", None),
    ord("t"): (b"true", True),
    ord("f"): (b"false", False),
}


def parse_json(body: bytes) -> Any:
    """Read one JSON document.

    Args:
        body: UTF-8; invalid bytes become lone surrogates (`surrogateescape`), so that encoding a string the
            same way restores the client's bytes.

    Returns:
        dict, list, str, int, float, bool or None.

    Raises:
        ServingError: the body is not valid JSON.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    if not _DOUBTFUL.search(body):
        try:
            return json.loads(
                body.decode("utf-8", "surrogateescape"), object_pairs_hook=_first_of_equal_names
            )
        except (ValueError, RecursionError):
            pass
    return _Reader(body).document()


def _first_of_equal_names(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of members with equal names it keeps the first, like RapidJSON (Python keeps the last)."""
    found = dict(members)
    if len(found) < len(members):
        for name, value in reversed(members):
            found[name] = value
    return found


class _Reader:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 3 if body.startswith(b"\xef\xbb\xbf") else 0

    def document(self) -> Any:
        """The first value; like TensorFlow Serving, ignore anything after it."""
        if self._peek() not in b'[{"tfn-0123456789NI' or self._peek() == b"":
            self._fail("The document is empty.")
        return self._value(1)

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            self._fail(f"Nested deeper than {MAX_DEPTH}.")
        first = self._peek()
        if first == b"{":
            return self._object(depth)
        if first == b"[":
            return self._array(depth)
        if first == b'"':
            return self._string()
        if first and first in b"ntf":
            return self._literal()
        return self._number()

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._at += 1
        if self._took(b"}"):
            return found
        while True:
            if self._peek() != b'"':
                self._fail("Missing a name for object member.")
            name = self._string()
            if not self._took(b":"):
                self._fail("Missing a colon after a name of object member.")
            value = self._value(depth + 1)
            found.setdefault(name, value)  # as in _first_of_equal_names
            if self._took(b"}"):
                return found
            if not self._took(b","):
                self._fail("Missing a comma or } after an object member.")

    def _array(self, depth: int) -> list[Any]:
        found: list[Any] = []
        self._at += 1
        if self._took(b"]"):
            return found
        while True:
            found.append(self._value(depth + 1))
            if self._took(b"]"):
                return found
            if not self._took(b","):
                self._fail("Missing a comma or ] after an array element.")

    def _literal(self) -> Any:
        word, value = _LITERALS[self._body[self._at]]
        for position, letter in enumerate(word):
            if self._body[self._at + position : self._at + position + 1] != bytes([letter]):
                self._fail("Invalid value.", self._at + position)
        self._at += len(word)
        return value

    def _number(self) -> int | float:
        start = self._at
        match = _NUMBER.match(self._body, start)
        if match is None:
            return self._not_finite()
        self._at = match.end()
        following = self._body[self._at : self._at + 1]
        if following == b"." and match[1] is None and match[2] is None:
            self._fail("Miss fraction part in number.", self._at + 1)
        if following and following in b"eE" and match[2] is None:
            signed = self._body[self._at + 1 : self._at + 2] in (b"+", b"-")
            self._fail("Miss exponent in number.", self._at + (2 if signed else 1))
        if match[1] is None and match[2] is None and match.end() - start <= 20:
            whole = int(match[0])
            if -(2**63) <= whole < 2**64:
                return whole  # larger numbers become a double
        value = float(match[0])
        if value in (float("inf"), float("-inf")):
            self._fail("Number too big to be stored in double.", start)
        return value

    def _not_finite(self) -> float:
        negative = self._body[self._at : self._at + 1] == b"-"
        at = self._at + negative
        word = b"NaN" if self._body[at : at + 1] == b"N" else b"Infinity"
        same = 0
        while same < len(word) and self._body[at + same : at + same + 1] == word[same : same + 1]:
            same += 1
        if same != len(word) and not (word == b"Infinity" and same == 3):  # `Inf` is valid too
            self._fail("Invalid value.", at + same)
        self._at = at + same
        value = float(word)
        return -value if negative else value

    def _string(self) -> str:
        parts: list[str] = []
        self._at += 1
        while True:
            match = _STRING_STOP.search(self._body, self._at)
            end = match.start() if match else len(self._body)
            parts.append(self._body[self._at : end].decode("utf-8", "surrogateescape"))
            self._at = end
            stop = self._body[self._at : self._at + 1]
            if stop == b'"':
                self._at += 1
                return "".join(parts)
            if stop == b"\\":
                parts.append(self._escape())
            elif stop in (b"", b"\0"):
                self._fail("Missing a closing quotation mark in string.")
            else:
                self._fail("Invalid encoding in string.")

    def _escape(self) -> str:
        start = self._at
        letter = self._body[start + 1 : start + 2]
        if letter != b"u":
            if not letter or letter[0] not in _ESCAPES:
                self._fail("Invalid escape character in string.", start)
            self._at += 2
            return _ESCAPES[letter[0]]
        code = self._hex(start, start + 2)
        self._at += 6
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)
        if code > 0xDBFF or self._body[self._at : self._at + 2] != b"\\u":
            self._fail("The surrogate pair in string is invalid.", start)
        low = self._hex(start, self._at + 2)
        if not 0xDC00 <= low <= 0xDFFF:
            self._fail("The surrogate pair in string is invalid.", start)
        self._at += 6
        return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00))

    def _hex(self, escape: int, at: int) -> int:
        match = _HEX.match(self._body, at)
        if match is None:
            self._fail("Incorrect hex digit after \\u escape in string.", escape)
        return int(match[0], 16)

    def _peek(self) -> bytes:
        while self._body[self._at : self._at + 1] in _SPACES:
            self._at += 1
        return self._body[self._at : self._at + 1]

    def _took(self, mark: bytes) -> bool:
        if self._peek() != mark:
            return False
        self._at += 1
        return True

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        offset = self._at if at is None else at
        raise invalid_argument(f"JSON Parse error: {reason} at offset: {offset}")
