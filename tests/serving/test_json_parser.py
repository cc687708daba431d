"""Our JSON parser beside the standard library's, and RapidJSON's error texts with their offsets."""

import json
import math
import random
from typing import Any

import pytest

from genre_tf.serving.embedded.json_parser import MAX_DEPTH, _Reader, parse_json
from genre_tf.serving.embedded.statuses import ServingError


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "The document is empty"),
        (b"  ", "The document is empty. at offset: 2"),
        (b"x", "The document is empty. at offset: 0"),
        (b'{"a":', "Invalid value. at offset: 5"),
        (b'{"a": nul}', "Invalid value. at offset: 9"),
        (b'{"a": Infini}', "Invalid value. at offset: 12"),
        (b'{"a": -}', "Invalid value. at offset: 7"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b"[1 2]", "Missing a comma or ] after an array element. at offset: 3"),
        (b"[01]", "Missing a comma or ] after an array element. at offset: 2"),
        (b'{"a":1,}', "Missing a name for object member. at offset: 7"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a":1 "b":2}', "Missing a comma or } after an object member. at offset: 7"),
        (b'["abc', "Missing a closing quotation mark in string. at offset: 5"),
        (b'["a\nb"]', "Invalid encoding in string. at offset: 3"),
        (b'["a\\x"]', "Invalid escape character in string. at offset: 3"),
        (b'["a\\u12g4"]', "Incorrect hex digit after \\u escape in string. at offset: 3"),
        (b'["a\\ud800"]', "The surrogate pair in string is invalid. at offset: 3"),
        (b"[1.]", "Miss fraction part in number. at offset: 3"),
        (b"[1e+]", "Miss exponent in number. at offset: 4"),
        (b"[-1e400]", "Number too big to be stored in double. at offset: 1"),
        (b"[" + b"9" * 400 + b"]", "Number too big to be stored in double. at offset: 1"),
    ],
)
def test_errors_name_reason_and_offset(body: bytes, reason: str) -> None:
    with pytest.raises(ServingError) as caught:
        parse_json(body)
    assert caught.value.message == f"JSON Parse error: {reason}"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"\xef\xbb\xbf[1]", [1]),
        (b"[1] and more", [1]),
        (b'{"a": Inf, "b": -Infinity}', {"a": math.inf, "b": -math.inf}),
        (b'["\\ud83d\\ude00", "\\u4e2d"]', ["\U0001f600", "中"]),
        (b"[1e300, 18446744073709551615, 1e-400]", [1e300, 2**64 - 1, 0.0]),
        (b'["one1e999"]', ["one1e999"]),
        (b'{"a": 1, "b": {"c": [2], "c": [3]}, "a": 4, "a": 5}', {"a": 1, "b": {"c": [2]}}),
        (b'{"a": 1, "a": Inf}', {"a": 1}),
    ],
)
def test_what_rapidjson_takes_is_taken(body: bytes, value: Any) -> None:
    assert parse_json(body) == value


def test_bytes_that_are_no_utf8_come_through() -> None:
    (text,) = parse_json(b'["\xff\xfe"]')
    assert text.encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_both_parsers_agree() -> None:
    dice = random.Random(1)

    def value(depth: int) -> Any:
        kind = dice.randrange(7 if depth < 4 else 5)
        if kind == 5:
            return [value(depth + 1) for _ in range(dice.randrange(4))]
        if kind == 6:
            return {f'k{i}\n"': value(depth + 1) for i in range(dice.randrange(4))}
        simple = [
            None,
            True,
            dice.randint(-(2**63), 2**64 - 1),
            dice.gauss(0, 1e30),
            'é"\\\t/' * dice.randrange(3),
        ]
        return simple[kind]

    for _ in range(200):
        document = [value(0)]
        for ascii_only in (True, False):
            body = json.dumps(document, ensure_ascii=ascii_only, indent=dice.choice([None, 2])).encode()
            assert _Reader(body).document() == document
            assert parse_json(body) == document


def test_depth_is_limited() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(ServingError, match="Nested deeper than"):
        parse_json(b"[" * 100_000)
