"""Requests made by hypothesis, few of them good: the right code each time, and a good one still answers.

Some hundreds in each run of the suite. The twenty thousand of a release, 5,000 a test:
    pytest tests/serving/test_fuzz.py --hypothesis-profile=twenty-thousand
"""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as some

SERVICE = "/tensorflow.serving.PredictionService/"
RIGHT_CODES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}
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
MODELS = ["toy", "toy", "toy", "none", ""]
BODIES = [
    b'{"instances": [1.0, 2.0]}',
    b'{"inputs": {"x": [1.0]}}',
    b'{"signature_name": "two", "instances": [{"a": 1, "b": 2}]}',
    b'{"signature_name": "regress_x", "examples": [{"x": 1.0}], "context": {"x": 2.0}}',
    b'{"signature_name": "image", "instances": [{"b64": "AAAA"}]}',
    b'{"signature_name": "strings", "instances": ["\\u00e9\\ud83d\\ude00"]}',
]


class Target:
    """The toy behind batching, and a client of each kind."""

    def __init__(self, server: Any, channel: grpc.Channel) -> None:
        host, port = server.rest_address.removeprefix("http://").split(":")
        self.address = (host, int(port))
        self.channel = channel

    def raw(self, request: bytes) -> bytes:
        """What comes back on a connection of its own until the server closes it."""
        with socket.create_connection(self.address, timeout=30) as connection:
            answer = b""
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
            except (ConnectionResetError, BrokenPipeError):
                pass  # the server refused before it had read all
            return answer

    def post(self, path: bytes, body: bytes) -> tuple[int, bytes]:
        answer = self.raw(b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (path, len(body)) + body)
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), content

    def call(self, method: str, request: bytes) -> grpc.StatusCode:
        try:
            self.channel.unary_unary(SERVICE + method)(request, timeout=30)
        except grpc.RpcError as caught:
            error: Any = caught
            return error.code()
        return grpc.StatusCode.OK

    def check_good(self) -> None:
        """A good request still answers."""
        good = (200, {"predictions": [3.5]})
        status, body = self.post(b"/v1/models/toy:predict", b'{"instances": [1.0]}')
        assert (status, json.loads(body)) == good


@pytest.fixture(scope="module")
def target(toy_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    from genre_tf.serving.embedded_server import EmbeddedServer, ServerOptions

    models = tmp_path_factory.mktemp("fuzzed")
    shutil.copytree(toy_models / "toy", models / "toy")
    (models / "batching.config").write_text(
        "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8"
    )
    options = ServerOptions(grpc_port=0, rest_port=0, max_request_bytes=1 << 20)
    with EmbeddedServer(models, options) as server, grpc.insecure_channel(server.grpc_address) as channel:
        yield Target(server, channel)


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
def test_rest_bodies(target: Target, path: bytes, body: bytes) -> None:
    status, content = target.post(path, body)
    assert status in (200, 400, 404), (status, content)
    answer = json.loads(content.decode("utf-8", "surrogateescape"))
    assert set(answer) & ({"predictions", "outputs", "results"} if status == 200 else {"error"})
    if b"/none" in path and status != 400:
        assert status == 404
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
def test_bytes_that_are_hardly_http(target: Target, request: bytes) -> None:
    answer = target.raw(request)
    if answer.startswith(b"HTTP/"):
        status = int(answer.split()[1])
        assert status in (100, 200, 400, 404, 413, 414, 417, 431, 501, 505), answer
    target.check_good()


def tensor(dtype: int, shape: list[int], content: bytes, numbers: list[float], texts: list[bytes]) -> Any:
    from tensorflow.core.framework import tensor_pb2

    proto = tensor_pb2.TensorProto(dtype=dtype, tensor_content=content)
    for length in shape:
        proto.tensor_shape.dim.add(size=length)
    proto.float_val.extend(numbers)
    proto.int64_val.extend(int(number) for number in numbers)
    proto.string_val.extend(texts)
    return proto


TENSORS = some.builds(
    tensor,
    some.sampled_from([1, 1, 9, 7, 7, 2, 3, 10, 0, 14, 21, 23, 101, 999]),
    some.one_of(
        some.integers(0, 10).map(lambda rows: [rows]),
        some.lists(some.one_of(some.integers(-2, 5), some.just(1 << 40)), max_size=4),
    ),
    some.one_of(some.just(b""), some.binary(max_size=16)),
    some.lists(some.floats(-1e6, 1e6, width=32), max_size=4),
    some.lists(some.binary(max_size=8), max_size=4),
)


@given(
    some.sampled_from(MODELS),
    some.sampled_from(SIGNATURES),
    some.dictionaries(some.sampled_from(NAMES), TENSORS, max_size=3),
    some.lists(some.sampled_from([*NAMES, "y", "upper", "c"]), max_size=2),
    some.data(),
)
def test_predict_requests(
    target: Target, model: str, signature: str, inputs: Any, output_filter: Any, data: Any
) -> None:
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest(output_filter=output_filter)
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if data.draw(some.integers(0, 4)) == 0:
        request.model_spec.version.value = data.draw(some.sampled_from([1, 2, 3, -1, 1 << 60]))
    for name, proto in inputs.items():
        request.inputs[name].CopyFrom(proto)
    code = target.call("Predict", request.SerializeToString())
    assert code in RIGHT_CODES
    if model == "none":
        assert code is grpc.StatusCode.NOT_FOUND
    target.check_good()


def examples(kind: str, model: str, signature: str, rows: list[bytes]) -> bytes:
    """A request of tf.Examples that may be none."""
    from tensorflow_serving.apis import inference_pb2, input_pb2, regression_pb2

    # As on the wire: `example_list { examples … }`, with whatever bytes for the examples.
    wire = b"".join(b"\x0a" + bytes([len(row)]) + row for row in rows)
    given_input = input_pb2.Input()
    try:
        given_input.example_list.MergeFromString(wire)
    except Exception:
        given_input.example_list.examples.add()
    if kind == "MultiInference":
        request = inference_pb2.MultiInferenceRequest()
        request.input.CopyFrom(given_input)
        for name in (signature, "regress_x"):
            task = request.tasks.add(
                method_name=f"tensorflow/serving/{'regress' if name == 'regress_x' else 'classify'}"
            )
            task.model_spec.name, task.model_spec.signature_name = model, name
        return request.SerializeToString()
    other = regression_pb2.RegressionRequest()
    other.input.CopyFrom(given_input)
    other.model_spec.name, other.model_spec.signature_name = model, signature
    return other.SerializeToString()


GOOD_EXAMPLE = b"\x0a\x0d\x0a\x0b\x0a\x01x\x12\x06\x12\x04\x0a\x02\x00\x00"
CALLS = some.one_of(
    some.tuples(
        some.sampled_from(["Predict", "Regress", "Classify", "MultiInference", "GetModelMetadata"]),
        some.one_of(
            some.binary(max_size=60),
            cut_up(
                [
                    b"\x0a\x05\x0a\x03toy",
                    b"\x0a\x05\x0a\x03toy\x12\x0e\x0a\x01x\x12\x09\x08\x01\x12\x04\x12\x02\x08\x01",
                ]
            ),
        ),
    ),
    some.builds(
        lambda kind, *rest: (kind, examples(kind, *rest)),
        some.sampled_from(["Regress", "Classify", "MultiInference"]),
        some.sampled_from(MODELS),
        some.sampled_from(SIGNATURES),
        some.lists(some.one_of(some.binary(max_size=20), cut_up([GOOD_EXAMPLE])), max_size=10),
    ),
)


@given(CALLS)
def test_grpc_bytes_and_examples(target: Target, call: tuple[str, bytes]) -> None:
    code = target.call(*call)
    # INTERNAL is gRPC's own code for bytes that are no such message, in C++ as in Python.
    assert code in RIGHT_CODES | {grpc.StatusCode.INTERNAL}
    if code is grpc.StatusCode.INTERNAL:
        assert not parses(*call)
    target.check_good()


def parses(method: str, request: bytes) -> bool:
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        inference_pb2,
        predict_pb2,
        regression_pb2,
    )

    kind = {
        "Predict": predict_pb2.PredictRequest,
        "Regress": regression_pb2.RegressionRequest,
        "Classify": classification_pb2.ClassificationRequest,
        "MultiInference": inference_pb2.MultiInferenceRequest,
        "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    }[method]
    try:
        kind.FromString(request)
    except DecodeError:
        return False
    return True


def test_requests_beyond_the_limit_are_refused_by_both_protocols(target: Target) -> None:
    big = b"0" * (2 << 20)
    assert target.call("Predict", big) is grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = target.raw(b"POST /v1/models/toy:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(big))
    assert answer.startswith(b"HTTP/1.1 413 ")
    target.check_good()
