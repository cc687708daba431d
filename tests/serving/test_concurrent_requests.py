"""A thousand requests at once through batching are answered as alone; those beyond a limit are refused."""

import random
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

REQUESTS = 1000
THREADS = 64


@pytest.fixture(scope="module")
def batched(contract_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The recommender behind small batches that are padded, which wait for each other a little."""
    from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

    models = tmp_path_factory.mktemp("batched")
    shutil.copytree(contract_models / "genre_recommender", models / "genre_recommender")
    (models / "batching.config").write_text(
        "max_batch_size { value: 16 } batch_timeout_micros { value: 2000 } "
        "max_enqueued_batches { value: 1000 } num_batch_threads { value: 2 } "
        "allowed_batch_sizes: 4 allowed_batch_sizes: 8 allowed_batch_sizes: 16"
    )
    with EmbeddedServer(models, ServerOptions(grpc_port=0, rest_port=0)) as server:
        yield server


def histories() -> list[list[str]]:
    """Of 0 to 60 clicks, some of them of unknown articles, one to three rows a request."""
    dice = random.Random(3)
    ids = ["N1", "N2", "N3", "N4", "N77", "never-seen"]
    return [
        [" ".join(dice.choices(ids, k=dice.randint(0, 60))) for _ in range(dice.randint(1, 3))]
        for _ in range(REQUESTS)
    ]


def request_of(rows: list[str], signature: str) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "genre_recommender"
    request.model_spec.signature_name = signature
    request.inputs["history"].CopyFrom(tf.make_tensor_proto([row.encode() for row in rows]))
    if signature == "score":
        candidates = [b"N1 N2 N9"] * len(rows)
        request.inputs["candidates"].CopyFrom(tf.make_tensor_proto(candidates))
    return request


def test_batched_answers_equal_lone_ones(batched: Any) -> None:
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    requests = [
        request_of(rows, "recommend" if number % 3 else "score") for number, rows in enumerate(histories())
    ]
    with grpc.insecure_channel(batched.grpc_address) as channel, ThreadPoolExecutor(THREADS) as pool:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        together = list(pool.map(lambda request: stub.Predict(request, timeout=60), requests))
    count = batched._metrics.registry.get_sample_value
    runs = count(":tensorflow:serving:batching_session:wrapped_run_count")
    assert runs < 0.8 * REQUESTS  # they did meet
    from genre_tf.serving.embedded.servable import Servable, answer_predict

    (family,) = batched._metrics.load_attempts.collect()
    folder = Path(family.samples[0].labels["model_path"])
    alone = Servable("genre_recommender", 1, folder)
    for request, answer in zip(requests, together, strict=True):
        assert answer == answer_predict(alone, request)
    alone.close()
    assert count(":tensorflow:serving:batching_session:processed_batch_size_count") == runs


def test_requests_beyond_the_limit_are_refused_and_those_that_wait_are_answered() -> None:
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    from genre_tf.serving.embedded.grpc_server import GrpcServer
    from genre_tf.serving.embedded.manager import ModelManager
    from genre_tf.serving.embedded.metrics import ServerMetrics

    class Held(ModelManager):
        let_go = threading.Event()

        def states(self, spec: Any) -> Any:
            assert self.let_go.wait(10)
            return super().states(spec)

    sizes = {"threads": 1, "most_calls": 3, "max_message_bytes": 1 << 20}
    server = GrpcServer(Held(), ServerMetrics(), host="127.0.0.1", port=0, **sizes)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus
        sent = [ask.future(get_model_status_pb2.GetModelStatusRequest(model_spec={})) for _ in range(8)]
        deadline = time.monotonic() + 10
        while sum(call.done() for call in sent) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        Held.let_go.set()
        codes = [call.code() for call in sent]
    server.stop()
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 5
    assert codes.count(grpc.StatusCode.NOT_FOUND) == 3  # answered: they name no model
