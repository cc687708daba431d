"""`regress`: TensorFlow Serving's Regress API, from tf.Examples, in a session and through the server."""

import json
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    prediction_log_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from genre_tf.contract import RECOMMENDER
from genre_tf.export import requests
from genre_tf.export.gate import read_saved_model
from genre_tf.export.requests import example, warmup_requests
from genre_tf.serving.embedded.server import EmbeddedServer, ServerOptions

ROWS = [
    example(history=["N1 N2"], candidate=["N5"]),
    example(history=["N1", "N2"], candidate=["N5", "N6"]),
    example(candidate=["N5"], another=["feature"]),
    example(history=["N1 N2"]),
    example(history=["N1 N2"], candidate=["nobody"]),
    b"",
]


@pytest.fixture(scope="module")
def server(exported):
    with EmbeddedServer(exported.parents[1], ServerOptions(grpc_port=0, rest_port=0)) as running:
        yield running


@pytest.fixture(scope="module")
def prediction(server):
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def expected(ask):
    """What `score` says of the same rows; 0 where there is no candidate or an unknown one."""
    scored = ask("score", history=["N1 N2", ""], candidates=["N5", "N5"])["click_probability"][:, 0]
    return np.array([scored[0], scored[0], scored[1], 0, 0, 0], np.float32)


def regression(rows, signature="regress"):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "genre_recommender", signature
    for row in rows:
        request.input.example_list.examples.add().ParseFromString(row)
    return request


def test_the_answer_is_that_of_score_and_missing_features_are_empty_ones(ask, expected):
    answer = ask("regress", inputs=ROWS)["outputs"]
    assert answer.shape == (6,) and answer.dtype == np.float32
    np.testing.assert_allclose(answer, expected, rtol=1e-3)
    assert 0 < answer[0] < 1 and abs(np.log(answer[0] / answer[2])) > 0.01


def test_an_answer_does_not_depend_on_the_rows_beside_it(ask):
    together = ask("regress", inputs=ROWS)["outputs"]
    alone = [ask("regress", inputs=[row])["outputs"][0] for row in ROWS]
    np.testing.assert_allclose(together, alone, rtol=1e-3)


def test_what_is_no_example_is_refused_by_tensorflow_itself(ask):
    numbers = tf.train.Example()
    numbers.features.feature["history"].int64_list.value.append(1)
    for row in (b"no example", numbers.SerializeToString()):
        with pytest.raises(tf.errors.InvalidArgumentError):
            ask("regress", inputs=[ROWS[0], row])


def test_the_graph_names_the_method_by_which_tfx_chooses_the_api(exported):
    declared = read_saved_model(exported).meta_graphs[0].signature_def
    assert declared["regress"].method_name == "tensorflow/serving/regress"
    assert declared["score"].method_name == "tensorflow/serving/predict"


def test_regress_by_grpc(prediction, expected):
    answer = prediction.Regress(regression(ROWS), timeout=60)
    np.testing.assert_allclose([one.value for one in answer.result.regressions], expected, rtol=1e-3)
    with pytest.raises(grpc.RpcError) as refused:
        prediction.Regress(regression([]), timeout=60)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_regress_by_rest(server, expected):
    examples = [
        {"history": "N1 N2", "candidate": "N5"},
        {"history": ["N1", "N2"], "candidate": ["N5", "N6"]},
        {"candidate": "N5", "another": 7},
        {"history": "N1 N2"},
        {"history": "N1 N2", "candidate": {"b64": "bm9ib2R5"}},
        {},
    ]
    body = json.dumps({"signature_name": "regress", "examples": examples}).encode()
    url = f"{server.rest_address}/v1/models/genre_recommender:regress"
    with urllib.request.urlopen(url, body, timeout=60) as answer:
        np.testing.assert_allclose(json.load(answer)["results"], expected, rtol=1e-3)


def test_warmup_is_a_regression_request(tmp_path, catalogue):
    rows = {"regress": warmup_requests(RECOMMENDER, catalogue)["regress"]}
    requests.write_warmup(tmp_path / "w", "genre_recommender", rows, [1, 3])
    records = list(tf.data.TFRecordDataset(str(tmp_path / "w")).as_numpy_iterator())
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert [log.WhichOneof("log_type") for log in logs] == ["regress_log", "regress_log"]
    assert [len(log.regress_log.request.input.example_list.examples) for log in logs] == [1, 3]
    read = requests.read_warmup(tmp_path / "w")
    assert [entry.signature for entry in read] == ["regress", "regress"]
    given = tf.train.Example.FromString(read[1].inputs["inputs"][2])
    assert given == tf.train.Example.FromString(rows["regress"]["inputs"][0])
