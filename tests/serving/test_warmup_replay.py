"""Warmup records are answered before a version is available; a bad one keeps it from that."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

Warm = Callable[[Sequence[bytes]], Path]


@pytest.fixture
def warm(toy_models: Path, tmp_path: Path) -> Warm:
    """Gives version 2 of the toy these warmup records; version 1 has none."""

    def write(records: Sequence[bytes]) -> Path:
        import tensorflow as tf

        for version in ("1", "2"):
            shutil.copytree(toy_models / "toy" / version, tmp_path / "toy" / version)
        folder = tmp_path / "toy" / "2" / "assets.extra"
        folder.mkdir()
        with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
            for record in records:
                writer.write(record)
        return tmp_path

    return write


def predict_log(signature: str = "serving_default", name: str = "x", rows: int = 2) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "whatever"
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto([1.0] * rows))
    return log


def regress_log() -> Any:
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.regress_log.request.model_spec.signature_name = "regress_x"
    example = log.regress_log.request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(1.0)
    return log


def load(models: Path) -> tuple[dict[str, list[int]], list[str], list[tuple[int, str, int]]]:
    """What is served, what was said, and each version's state and error code."""
    from genre_tf.export.models_config import find_models
    from genre_tf.serving.embedded.manager import ModelManager, ModelSpec, VersionLoader, load_version

    said: list[str] = []
    manager = ModelManager()
    VersionLoader(models, manager, load_version, said.append).start(find_models(models))
    states = manager.states(ModelSpec("toy"))
    versions = manager.versions
    manager.close()
    return versions, said, [(state.version, state.state, state.error_code) for state in states]


def test_every_kind_of_request_is_replayed(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    from genre_tf.serving.embedded.servable import Servable

    ran: list[tuple[int, int]] = []
    run = Servable.run

    def spy(self: Any, feeds: dict[str, Any], fetches: Sequence[str], api: str = "") -> list[Any]:
        ran.append((self.version, len(next(iter(feeds.values())))))
        return run(self, feeds, fetches, api)

    monkeypatch.setattr(Servable, "run", spy)
    logs = [predict_log(rows=rows) for rows in (1, 4)]
    logs.append(regress_log())
    versions, _, _ = load(warm([log.SerializeToString() for log in logs] + [b""]))
    assert versions == {"toy": [2, 1]}
    assert ran == [(2, 1), (2, 4), (2, 1)]


def session_run_log() -> Any:
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    log.session_run_log.SetInParent()
    return log


@pytest.mark.parametrize(
    ("make_record", "code", "words"),
    [
        (lambda: b"\xff\xff", 3, "is not a PredictionLog"),
        (
            lambda: predict_log("none").SerializeToString(),
            9,
            "no signature 'none'",
        ),
        (lambda: predict_log(name="z").SerializeToString(), 3, "inputs of this signature are x; got z"),
        (lambda: session_run_log().SerializeToString(), 12, "must be a predict_log or a regress_log"),
    ],
    ids=["no record", "no such signature", "no such input", "a session's run"],
)
def test_a_bad_record_keeps_its_version_from_loading(
    warm: Warm, make_record: Callable[[], bytes], code: int, words: str
) -> None:
    versions, said, states = load(warm([predict_log().SerializeToString(), make_record()]))
    assert versions == {"toy": [1]}
    assert states == [(2, "END", code), (1, "AVAILABLE", 0)]
    assert any(words in line for line in said)


def test_a_damaged_file_keeps_its_version_from_loading(warm: Warm) -> None:
    models = warm([predict_log().SerializeToString()])
    file = models / "toy" / "2" / "assets.extra" / "tf_serving_warmup_requests"
    file.write_bytes(file.read_bytes()[:-3])
    versions, said, states = load(models)
    assert (versions, states[0]) == ({"toy": [1]}, (2, "END", 15))
    assert "is not a TFRecord file" in said[0]


def test_more_than_a_thousand_records_are_refused(warm: Warm) -> None:
    models = warm([b""] * 1001)
    versions, said, _ = load(models)
    assert versions == {"toy": [1]}
    assert "more than 1000 warmup records" in said[0]


def test_a_thousand_records_are_not_too_many(warm: Warm) -> None:
    assert load(warm([b""] * 1000))[0] == {"toy": [2, 1]}


@pytest.mark.parametrize(("signature", "ended"), [("serving_default", True), ("made_up", False)])
def test_only_a_warmup_that_succeeded_is_on_the_page_of_metrics(
    warm: Warm, signature: str, ended: bool
) -> None:
    from genre_tf.serving.embedded.manager import load_version
    from genre_tf.serving.embedded.metrics import ServerMetrics

    version = warm([predict_log(signature).SerializeToString()]) / "toy" / "2"
    metrics = ServerMetrics()
    try:
        load_version("toy", 2, version, metrics).close()
    except Exception:
        assert not ended
    page = metrics.page().decode()
    assert f'load_attempt_count{{model_path="{version}",status="success"}} 1.0' in page
    assert (f'model_warmup_latency_count{{model_path="{version}",status="OK"}} 1.0' in page) == ended
