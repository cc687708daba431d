"""gRPC requests made by hypothesis, few of them good: the right code each time, and a good one still answers.

Some hundreds in each run of the suite. The twenty thousand of a release, 5,000 a test:
    pytest tests/serving -k fuzz --hypothesis-profile=twenty-thousand
"""

from typing import Any

import grpc
from hypothesis import given
from hypothesis import strategies as some

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


@some.composite
def cut_up(draw: Any, originals: Any) -> bytes:
    """A good message with pieces left out and put in."""
    content = bytearray(draw(some.sampled_from(originals)))
    for _ in range(draw(some.integers(0, 4))):
        first = draw(some.integers(0, len(content)))
        content[first : first + draw(some.integers(0, 6))] = draw(some.binary(max_size=6))
    return bytes(content)


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
    target: Any, model: str, signature: str, inputs: Any, output_filter: Any, data: Any
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
def test_grpc_bytes_and_examples(target: Any, call: tuple[str, bytes]) -> None:
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


def test_requests_beyond_the_limit_are_refused_by_both_protocols(target: Any) -> None:
    big = b"0" * (2 << 20)
    assert target.call("Predict", big) is grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = target.raw(b"POST /v1/models/toy:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(big))
    assert answer.startswith(b"HTTP/1.1 413 ")
    target.check_good()
