"""A real export behind a real server: recorded answers by gRPC and REST, and a thousand requests at once."""

import base64
import functools
import json
import random
import shutil
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from genre_tf.contract import RECOMMENDER
from genre_tf.export.replay import compare
from genre_tf.export.requests import PARITY_FILE, as_bytes, read_exchanges
from genre_tf.serving.client.messages import to_array, write_proto
from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

REQUESTS, THREADS = 1000, 32
BATCHING = """
max_batch_size { value: 16 } allowed_batch_sizes: 8 allowed_batch_sizes: 16
batch_timeout_micros { value: 2000 } max_enqueued_batches { value: 1000 } num_batch_threads { value: 2 }
"""


@pytest.fixture(scope="module")
def version(exported, tmp_path_factory):
    """MODELS/genre_recommender/1 of a folder that batches."""
    models = tmp_path_factory.mktemp("served") / "models"
    shutil.copytree(exported.parents[1], models)
    (models / "batching.config").write_text(BATCHING)
    return models / RECOMMENDER / "1"


@pytest.fixture(scope="module")
def server(version):
    with EmbeddedServer(version.parents[1], ServerOptions(grpc_port=0, rest_port=0, poll_s=0)) as running:
        yield running


@pytest.fixture(scope="module")
def predict(server):
    """Ask by gRPC: signature and inputs to outputs."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

        def ask(signature, inputs):
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = RECOMMENDER, signature
            for name, rows in inputs.items():
                write_proto(rows.astype(object), request.inputs[name])
            answer = stub.Predict(request, timeout=120)
            return {name: to_array(tensor) for name, tensor in answer.outputs.items()}

        yield ask


def by_rest(server, signature, inputs, names, *, rows_form):
    """Ask by REST, in row or column form, with every string as b64."""
    columns = {
        name: [{"b64": base64.b64encode(row).decode()} for row in rows.tolist()]
        for name, rows in inputs.items()
    }
    if rows_form:
        rows = zip(*columns.values(), strict=True)
        asked = {"instances": [dict(zip(columns, row, strict=True)) for row in rows]}
    else:
        asked = {"inputs": columns}
    body = json.dumps({"signature_name": signature, **asked}).encode()
    url = f"{server.rest_address}/v1/models/{RECOMMENDER}:predict"
    with urllib.request.urlopen(url, body, timeout=120) as answer:
        told = json.load(answer)
    if not rows_form:
        return told["outputs"] if len(names) > 1 else {names[0]: told["outputs"]}
    predictions = told["predictions"]
    return {name: [row[name] if len(names) > 1 else row for row in predictions] for name in names}


def as_recorded(values, recorded):
    """JSON values as an array of the kind that was recorded."""
    if recorded.dtype.kind != "S":
        return np.array(values, recorded.dtype)
    texts = np.array(values, object)
    return as_bytes(texts.ravel()).reshape(texts.shape)


def test_every_recorded_answer_comes_back_by_grpc_and_rest(version, server, predict):
    records = read_exchanges(version / "assets.extra" / PARITY_FILE)
    assert len({one.signature for one in records}) == 11
    assert {len(next(iter(one.inputs.values()))) for one in records} == {1, 6}
    for one in records:
        named = f"{one.signature}, {one.case}"
        assert compare(one.outputs, predict(one.signature, one.inputs))[1] == [], named
        for rows_form in (True, False):
            told = by_rest(server, one.signature, one.inputs, sorted(one.outputs), rows_form=rows_form)
            answer = {name: as_recorded(told[name], recorded) for name, recorded in one.outputs.items()}
            assert compare(one.outputs, answer)[1] == [], f"{named}, REST, rows: {rows_form}"


def test_a_thousand_requests_in_batches_are_answered_as_one_at_a_time(
    version, server, predict, open_session, catalogue
):
    dice = random.Random(5)
    ids = [*catalogue.news_ids[1:], "never-seen"]
    asked = []
    for number in range(REQUESTS):
        inputs = {"history": as_bytes([" ".join(dice.choices(ids, k=dice.randint(0, 80)))])}
        if number % 3 == 0:
            inputs["candidates"] = as_bytes([" ".join(dice.choices(ids, k=dice.randint(1, 40)))])
        asked.append(("score" if "candidates" in inputs else "recommend", inputs))
    runs = functools.partial(
        server._metrics.registry.get_sample_value, ":tensorflow:serving:batching_session:wrapped_run_count"
    )
    before = runs()
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda one: predict(*one), asked))
    assert runs() - before < REQUESTS / 2, "requests met in few batches"
    ask_alone = open_session(version)
    for (signature, inputs), answer in zip(asked, together, strict=True):
        alone = ask_alone(signature, **{name: list(rows) for name, rows in inputs.items()})
        own = {name: answer[name][:, : alone[name].shape[1]] for name in alone}
        assert compare(alone, own)[1] == [], (signature, inputs)
        # A row of a batch is as wide as the widest: what is beyond its own candidates is padding.
        for name in alone:
            beyond = answer[name][:, alone[name].shape[1] :]
            assert (beyond == (-1 if name == "click_probability" else 0)).all(), (signature, name)
