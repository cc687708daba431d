"""Requests with faults strewn in: an error of the client each time, and a good request still answers."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import grpc
import pytest

PIECES = [
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"null",
    b"1e9",
    b"-",
    b"NaN",
    b"\xff",
    b"\\u00",
    b'"b64"',
    b"9" * 25,
]


def mutated(body: bytes, dice: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(dice.randint(1, 4)):
        start = dice.randint(0, len(changed))
        changed[start : start + dice.choice([0, 0, 1, 2, 5])] = dice.choice(PIECES)
    return bytes(changed)


def test_no_mutated_rest_request_is_the_servers_fault(target: Any, transcripts: Path) -> None:
    cases = [json.loads(line) for line in (transcripts / "rest.jsonl").read_text("utf-8").splitlines()]
    posts = [case for case in cases if case["method"] == "POST" and case["body"]]
    dice = random.Random(7)
    for _ in range(1000):
        case = dice.choice(posts)
        body = mutated(case["body"].encode(), dice)
        status, content = target.post(case["path"].encode(), body)
        assert status in (200, 400, 404, 501), (case["path"], body, content)
    target.check_good()


@pytest.mark.parametrize(
    "body",
    [
        b'{"signature_name": "re\xffgress", "instances": [1]}',
        b'{"signature_name": "\\ud800", "instances": [1]}',
        b'{"signature_name": "strings", "instances": ["\\ud800"]}',
    ],
)
def test_what_is_no_utf8_is_refused(target: Any, body: bytes) -> None:
    assert target.post(b"/v1/models/toy:predict", body)[0] == 400


def test_the_graphs_words_may_quote_bytes_that_are_no_utf8(target: Any) -> None:
    example = base64.b64encode(b"\x0a\x05\xff\xfe\xfd\xfc\xfb").decode()
    body = json.dumps({"signature_name": "regress_x", "instances": [{"b64": example}]}).encode()
    assert target.post(b"/v1/models/toy:predict", body)[0] == 400


def test_tensors_of_every_type_and_of_huge_shapes(toy_server: Any) -> None:
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    with grpc.insecure_channel(toy_server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for dtype in (*range(31), 101, 999):
            for lengths in ([2], [-1], [1 << 40], [1 << 62, 4], [1] * 100):
                request = predict_pb2.PredictRequest()
                request.model_spec.name = "toy"
                tensor = request.inputs["x"]
                tensor.dtype = dtype
                for length in lengths:
                    tensor.tensor_shape.dim.add(size=length)
                try:
                    stub.Predict(request, timeout=30)
                except grpc.RpcError as caught:
                    error: Any = caught
                    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (dtype, lengths, error.details())


def test_short_value_lists_repeat_their_last_value() -> None:
    from tensorflow.core.framework import tensor_pb2, types_pb2

    from genre_tf.serving.client.messages import to_array

    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1, 2])
    proto.tensor_shape.dim.add(size=4)
    assert to_array(proto).tolist() == [1, 2, 2, 2]
    strings = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING)
    strings.tensor_shape.dim.add(size=2)
    assert to_array(strings).tolist() == [b"", b""]
