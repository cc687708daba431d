"""The metrics page: TensorFlow Serving's names, and its own counts after its own recorded requests."""

import http.client
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from genre_tf.serving.embedded.metrics import ServerMetrics


def samples(page: str, pattern: str) -> dict[Any, float]:
    """Name and labels -> value, of the samples whose names match."""
    return {
        (name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if re.fullmatch(pattern, name := sample.name.removesuffix("_total"))  # which the parser adds
    }


@pytest.fixture(scope="module")
def counted(toy_models: Path, transcripts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page after the REST cases of the transcripts, in their order."""
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    models = tmp_path_factory.mktemp("counted") / "models"
    shutil.copytree(toy_models, models)
    (models / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    with EmbeddedServer(models, ServerOptions(grpc_port=0, rest_port=0)) as server:
        connection = http.client.HTTPConnection(server.rest_address.removeprefix("http://"), timeout=30)

        def ask(method: str, path: str, body: str | None = None) -> Any:
            connection.request(method, path, body)
            response = connection.getresponse()
            return (
                response.status,
                response.getheader("Content-Type"),
                response.read().decode("utf-8", "replace"),
            )

        # The recorded page knows of one good request more than the cases: the one that saw the server ready.
        ask("POST", "/v1/models/toy:predict", '{"instances": [1.0]}')
        for line in (transcripts / "rest.jsonl").read_text("utf-8").splitlines():
            case = json.loads(line)
            ask(case["method"], case["path"], case["body"])
        status, kind, page = ask("GET", "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        yield page
        connection.close()


@pytest.fixture(scope="module")
def recorded(transcripts: Path) -> str:
    return (transcripts / "prometheus_metrics.txt").read_text("utf-8")


def of_predict(found: dict[Any, float]) -> dict[Any, float]:
    return {key: value for key, value in found.items() if ("API", "predict") in key}


def test_counts_are_the_recorded_ones(counted: str, recorded: str) -> None:
    name = ":tensorflow:serving:request_count"
    good = {key: value for key, value in samples(recorded, name).items() if ("status", "OK") in key}
    classified = 1  # which the embedded server refuses
    assert [value - classified for value in good.values()] == [
        value for key, value in samples(counted, name).items() if ("status", "OK") in key
    ]
    assert (name, ("model_name", "none"), ("status", "NOT_FOUND")) in samples(counted, name)
    latency = ":tensorflow:serving:request_latency_count"
    assert of_predict(samples(counted, latency)) == of_predict(samples(recorded, latency)) != {}


def test_names_and_types_are_tensorflow_servings(counted: str, recorded: str) -> None:
    types = set(re.findall("# TYPE .*", counted))
    batching = {kind for kind in types if "batching_session" in kind}  # was off when it was recorded
    assert types - batching <= set(re.findall("# TYPE .*", recorded))
    assert "# TYPE :tensorflow:serving:request_count counter" in types
    assert len(types) >= 12


def test_limits_of_latencies_are_the_recorded_ones(counted: str, recorded: str) -> None:
    bucket = ":tensorflow:serving:request_latency_bucket"
    limits = [
        sorted(float(dict(key[1:])["le"]) for key in of_predict(samples(page, bucket)))
        for page in (counted, recorded)
    ]
    assert limits[0] == limits[1] != []


def test_clients_cannot_fill_the_page() -> None:
    metrics = ServerMetrics()
    for number in range(5000):
        with metrics.counted(f"model{number}", "predict", "REST"):
            pass
    page = metrics.page().decode()
    assert ':tensorflow:serving:request_count{model_name="(other)",status="OK"} 4000.0' in page
    assert page.count("request_latency_count") == 1001


def test_grpc_requests_are_counted_and_loads_are_timed(toy_server: Any) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    def counts() -> list[float]:
        page = toy_server._metrics.page().decode()
        found = samples(page, ":tensorflow:serving:.*_count")
        serving = ":tensorflow:serving:"
        model = ("model_name", "toy")
        return [
            found.get(key, 0.0)
            for key in (
                (f"{serving}request_count", model, ("status", "OK")),
                (f"{serving}request_latency_count", ("API", "Predict"), ("entrypoint", "GRPC"), model),
                (f"{serving}runtime_latency_count", ("API", "Predict"), model, ("runtime", "TF1")),
                (f"{serving}request_count", ("model_name", "none"), ("status", "NOT_FOUND")),
            )
        ]

    before = counts()
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
    with grpc.insecure_channel(toy_server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for name in ("toy", "toy", "none"):
            request.model_spec.name = name
            if name == "toy":
                stub.Predict(request, timeout=30)
            else:
                with pytest.raises(grpc.RpcError):
                    stub.Predict(request, timeout=30)
    assert counts() == [number + more for number, more in zip(before, (2, 2, 2, 1), strict=True)]
    loads = samples(toy_server._metrics.page().decode(), ":tensorflow:cc:saved_model:.*")
    newest = {key[0]: value for key, value in loads.items() if key[1][1].endswith("toy/2")}
    assert newest[":tensorflow:cc:saved_model:load_attempt_count"] == 1
    assert newest[":tensorflow:cc:saved_model:load_latency"] > 1000
