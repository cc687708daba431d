"""The metrics page: TensorFlow Serving's own counts after its own recorded requests, in its format."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from genre_tf.serving.embedded.metrics import Counter, Histogram, ServerMetrics


@pytest.fixture(scope="module")
def counted(toy_server: Any, transcripts: Path) -> Iterator[str]:
    """The page after the REST cases of the transcripts, in their order."""
    from genre_tf.serving.embedded.rest_api import RestApi

    api = RestApi(toy_server._manager, ServerMetrics(), "/metrics")
    # The recorded page knows of one good request more than the cases: the one that saw the server ready.
    api.answer("POST", "/v1/models/toy:predict", b'{"instances": [1.0]}')
    for line in (transcripts / "rest.jsonl").read_text("utf-8").splitlines():
        case = json.loads(line)
        api.answer(case["method"], case["path"], (case["body"] or "").encode())
    answer = api.answer("GET", "/metrics", b"")
    assert (answer.status, answer.content_type) == (200, "text/plain")
    yield answer.body.decode()


@pytest.fixture(scope="module")
def recorded(transcripts: Path) -> str:
    return (transcripts / "prometheus_metrics.txt").read_text("utf-8")


def lines(page: str, pattern: str) -> list[str]:
    return sorted(line for line in page.splitlines() if re.match(pattern, line))


@pytest.mark.parametrize(
    "pattern",
    [
        ":tensorflow:serving:request_count{",
        ":tensorflow:serving:request_latency_count{",
        "# TYPE :tensorflow:serving:(request_count|request_latency|runtime_latency) ",
        "# TYPE :tensorflow:serving:(model_warmup|batching_session:(queuing|wrapped))",
        "# TYPE :tensorflow:cc:saved_model:load_(attempt_count|latency) ",
    ],
)
def test_counts_are_the_recorded_ones(counted: str, recorded: str, pattern: str) -> None:
    assert lines(recorded, pattern)
    assert lines(counted, pattern) == lines(recorded, pattern)


def test_limits_of_latencies_are_the_recorded_ones(counted: str, recorded: str) -> None:
    bucket = re.compile(r':tensorflow:serving:request_latency_bucket({.*"predict".*}) ')
    assert bucket.findall(recorded)
    assert bucket.findall(counted) == bucket.findall(recorded)


def test_batching_limits_are_tensorflow_servings() -> None:
    metrics = ServerMetrics()
    metrics.queuing_latency.add(100.0, "")
    found = list(metrics.queuing_latency.lines())
    name = ":tensorflow:serving:batching_session:queuing_latency"
    assert found[1] == f'{name}_bucket{{thread_pool_name="",le="100"}} 0'
    assert found[2] == f'{name}_bucket{{thread_pool_name="",le="120"}} 1'
    assert found[-3:] == [
        f'{name}_bucket{{thread_pool_name="",le="+Inf"}} 1',
        f'{name}_sum{{thread_pool_name=""}} 100',
        f'{name}_count{{thread_pool_name=""}} 1',
    ]


def test_every_line_is_prometheus_text(counted: str) -> None:
    sample = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*\{([a-zA-Z_]\w*="(\\.|[^"\\])*",?)*\} \S+')
    for line in counted.splitlines():
        assert line.startswith("# TYPE ") or sample.fullmatch(line), line


def test_label_values_are_escaped() -> None:
    counter = Counter("name", ("model",))
    counter.add('a"b\\c\nd', by=2)
    assert list(counter.lines())[1] == r'name{model="a\"b\\c\nd"} 2'


def test_counts_of_a_histogram_add_up() -> None:
    histogram = Histogram("h", (), scale=1, growth=2, limits=3)
    for value in (0, 1, 1.5, 4, 1000):
        histogram.add(value)
    assert list(histogram.lines())[1:] == [
        'h_bucket{le="1"} 1',
        'h_bucket{le="2"} 3',
        'h_bucket{le="4"} 3',
        'h_bucket{le="+Inf"} 5',
        "h_sum{} 1006.5",
        "h_count{} 5",
    ]


def test_clients_cannot_fill_the_page() -> None:
    metrics = ServerMetrics()
    for number in range(5000):
        metrics.requests.add(f"model{number}", "NOT_FOUND")
        metrics.request_latency.add(1.0, f"model{number}", "predict", "REST")
    page = metrics.page().decode()
    assert ':tensorflow:serving:request_count{model_name="(other)",status="(other)"} 4000' in page
    assert page.count("request_latency_count") == 1001


def test_grpc_requests_are_counted_and_loads_are_timed(toy_server: Any) -> None:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    def count(pattern: str) -> int:
        found = re.search(pattern + r" (\d+)", toy_server._metrics.page().decode())
        return int(found[1]) if found else 0

    patterns = [
        r'request_count\{model_name="toy",status="OK"\}',
        r'request_latency_count\{model_name="toy",API="Predict",entrypoint="GRPC"\}',
        r'runtime_latency_count\{model_name="toy",API="Predict",runtime="TF1"\}',
        r'request_count\{model_name="none",status="NOT_FOUND"\}',
    ]
    before = [count(pattern) for pattern in patterns]
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
    assert [count(pattern) for pattern in patterns] == [
        number + more for number, more in zip(before, (2, 2, 2, 1), strict=True)
    ]
    assert count(r'load_attempt_count\{model_path="[^"]*toy/2",status="success"\}') == 1
    assert count(r'load_latency\{model_path="[^"]*toy/2"\}') > 1000
