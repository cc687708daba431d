"""REST requests made by hypothesis, few of them good: the right code each time, and a good one still answers.

Some hundreds in each run of the suite. The twenty thousand of a release, 5,000 a test:
    pytest tests/serving -k fuzz --hypothesis-profile=twenty-thousand
"""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as some

SIGNATURES = [
    "serving_default",
    "strings",
    "matrix",
    "two",
    "odd",
    "image",
    "regress_x",
    "classify_x",
    "",
    "none",
]
NAMES = ["x", "s", "m", "a", "b", "in_bytes", "inputs", "z", ""]
BODIES = [
    b'{"instances": [1.0, 2.0]}',
    b'{"inputs": {"x": [1.0]}}',
    b'{"signature_name": "two", "instances": [{"a": 1, "b": 2}]}',
    b'{"signature_name": "regress_x", "examples": [{"x": 1.0}], "context": {"x": 2.0}}',
    b'{"signature_name": "image", "instances": [{"b64": "AAAA"}]}',
    b'{"signature_name": "strings", "instances": ["\\u00e9\\ud83d\\ude00"]}',
]


@some.composite
def cut_up(draw: Any, originals: Any) -> bytes:
    """A good thing with pieces left out, put in and repeated."""
    content = bytearray(draw(some.sampled_from(originals)))
    pieces = some.sampled_from(
        [b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"1e999", b"-", b"NaN", b"\\u", b"9" * 25]
    )
    for _ in range(draw(some.integers(0, 4))):
        first = draw(some.integers(0, len(content)))
        last = first + draw(some.integers(0, 6))
        content[first:last] = draw(some.one_of(some.binary(max_size=6), pieces))
    return bytes(content)


VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats()
    | some.text(max_size=8)
    | some.just({"b64": "AAAA"})
    | some.just({"b64": 3}),
    lambda inner: (
        some.lists(inner, max_size=4) | some.dictionaries(some.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=12,
)
DOCUMENTS = some.dictionaries(
    some.sampled_from(["instances", "inputs", "examples", "context", "signature_name", "more"]),
    some.one_of(VALUES, some.lists(VALUES, max_size=12), some.sampled_from(SIGNATURES)),
    max_size=4,
)
PATHS = some.builds(
    lambda model, where, verb: f"/v1/models/{model}{where}{verb}".encode(),
    some.sampled_from(["toy", "toy", "none", "t%6Fy", "%ff", ""]),
    some.sampled_from(
        ["", "", "", "/versions/1", "/versions/9", "/versions/-1", "/labels/x", f"/versions/{10**30}"]
    ),
    some.sampled_from([":predict", ":predict", ":classify", ":regress", ":explain", "", "/metadata"]),
)


@given(PATHS, some.one_of(DOCUMENTS.map(lambda found: json.dumps(found).encode()), cut_up(BODIES)))
def test_rest_bodies(target: Any, path: bytes, body: bytes) -> None:
    status, content = target.post(path, body)
    assert status in (200, 400, 404, 501), (status, content)
    answer = json.loads(content.decode("utf-8", "surrogateescape"))
    assert set(answer) & ({"predictions", "outputs", "results"} if status == 200 else {"error"})
    if b"/none" in path:
        assert status in (400, 404, 501)
    target.check_good()


HTTP = [
    b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n" + b'{"instances": [1]}',
    b"GET /v1/models/toy/metadata HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"POST /v1/models/toy:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'12\r\n{"instances": [1]}\r\n0\r\n\r\n',
    b"OPTIONS /v1/models/toy:predict HTTP/1.1\r\nOrigin: http://x\r\n\r\n",
]
HTTP_PIECES = [
    b"\r\n",
    b"\n",
    b"\x00",
    b": ",
    b" ",
    b"HTTP/",
    b"Content-Length: 5\r\n",
    b"Content-Length: -5\r\n",
    b"Expect: 100-continue\r\n",
    b"\xff" * 9,
    b"Transfer-Encoding: chunked\r\n",
    b"f" * 20,
    b"A: b\r\n" * 120,
]


@some.composite
def cut_up_http(draw: Any) -> bytes:
    content = bytearray(draw(some.sampled_from(HTTP)))
    for _ in range(draw(some.integers(1, 4))):
        first = draw(some.integers(0, len(content)))
        piece = draw(some.one_of(some.binary(max_size=8), some.sampled_from(HTTP_PIECES)))
        content[first : first + draw(some.integers(0, 8))] = piece
    return bytes(content)


@given(some.one_of(cut_up_http(), some.binary(max_size=200)))
def test_bytes_that_are_hardly_http(target: Any, request: bytes) -> None:
    answer = target.raw(request, half_closed=True)
    if answer.startswith(b"HTTP/"):
        status = int(answer.split()[1])
        assert status in (100, 200, 400, 404, 413), answer
    target.check_good()
