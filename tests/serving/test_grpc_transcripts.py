"""Every recorded gRPC answer of TensorFlow Serving: the embedded server gives the same code and values."""

# Classify and MultiInference are UNIMPLEMENTED: no signature of genre_tf has them.

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

RECORDED = Path(__file__).with_name("transcripts") / "grpc.jsonl"
CASES = [json.loads(line) for line in RECORDED.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def channel(toy_server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(toy_server.grpc_address) as opened:
        yield opened


def call_of(method: str, channel: grpc.Channel) -> tuple[Any, Any, Any]:
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        inference_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
        regression_pb2,
    )

    prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    metadata, status = get_model_metadata_pb2, get_model_status_pb2
    return {
        "Predict": (prediction.Predict, predict_pb2.PredictRequest, predict_pb2.PredictResponse),
        "Regress": (prediction.Regress, regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
        "Classify": (
            prediction.Classify,
            classification_pb2.ClassificationRequest,
            classification_pb2.ClassificationResponse,
        ),
        "MultiInference": (
            prediction.MultiInference,
            inference_pb2.MultiInferenceRequest,
            inference_pb2.MultiInferenceResponse,
        ),
        "GetModelMetadata": (
            prediction.GetModelMetadata,
            metadata.GetModelMetadataRequest,
            metadata.GetModelMetadataResponse,
        ),
        "GetModelStatus": (
            model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus,
            status.GetModelStatusRequest,
            status.GetModelStatusResponse,
        ),
    }[method.split("/")[1]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['method'].split('/')[1]} {case['case']}")
def test_grpc_answer_has_the_recorded_code_and_values(case: dict[str, Any], channel: grpc.Channel) -> None:
    from google.protobuf import json_format

    call, request_type, response_type = call_of(case["method"], channel)
    request = json_format.ParseDict(case["request"], request_type())
    missing = case["method"].endswith(("Classify", "MultiInference"))
    if case["code"] == "OK" and not missing:
        recorded = json_format.ParseDict(case["response"], response_type())
        answer = call(request, timeout=30)
        # As text: NaN equals itself there, and the order in which a map was written does not show.
        assert json_format.MessageToDict(answer) == json_format.MessageToDict(recorded)
        return
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    error: Any = caught.value
    assert error.code().name == ("UNIMPLEMENTED" if missing else case["code"])
    assert error.details()


def test_all_cases_are_there() -> None:
    assert len(CASES) == 48
