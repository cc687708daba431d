import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

from genre_tf.cli.export import verify
from genre_tf.contract import CONTRACT_FILE, WARMUP_FILE
from genre_tf.errors import FailureError, InputError
from genre_tf.export import replay, requests
from genre_tf.export.verification import find_versions, verify_version


@pytest.fixture(scope="module")
def models(tmp_path_factory, publish_toy):
    root = tmp_path_factory.mktemp("verified") / "models"
    publish_toy(root)
    return root


@pytest.fixture
def version(models, tmp_path):
    return shutil.copytree(models / "toy" / "1", tmp_path / "models" / "toy" / "1")


def test_a_good_version_passes_signature_by_signature(models):
    checked = verify_version(models / "toy" / "1")
    assert checked.passed and checked.servable == "toy"
    assert set(checked.signatures) == {"count", "serving_default"}
    count = checked.signatures["count"]
    assert (count.requests, count.warmups, count.rows) == (1, 2, 2 + 1 + 4)
    assert count.difference <= 1e-6


def test_the_fresh_process_knows_nothing_of_this_package(models):
    command = [sys.executable, "-I", replay.__file__, str(models / "toy" / "1")]
    records = str(models / "toy" / "1" / "assets.extra" / requests.PARITY_FILE)
    answer = json.loads(subprocess.run([*command, records], capture_output=True, check=True).stdout)
    others = {"genre_tf", "keras", "keras_hub", "tensorflow_recommenders", "tensorflow_text", "transformers"}
    assert "tensorflow" in answer["modules"] and not others & set(answer["modules"])


def test_signatures_are_prepared_before_the_values_are_there(version, tmp_path):
    variables = (version / "variables").rename(tmp_path / "later")

    def told():
        yield str(version)
        variables.rename(version / "variables")  # asked for more, so it has read the graph
        yield str(version / "assets.extra" / requests.PARITY_FILE)

    answers = replay.replay(told())
    assert {answer["signature"] for answer in answers} == {"count", "serving_default"}
    assert not [fault for answer in answers for fault in answer["faults"]]


def test_a_signature_that_cannot_be_run_is_the_fault_of_its_requests_alone(version):
    file = version / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for output in model.meta_graphs[0].signature_def["count"].outputs.values():
        output.name = output.name.split(":")[0] + ":9"
    file.write_bytes(model.SerializeToString())
    checked = verify_version(version).signatures
    assert "9" in checked["count"].faults[0] and not checked["serving_default"].faults


def test_another_answer_than_the_python_models_ends_with_failure(tmp_path, publish_toy, capsys):
    publish_toy(tmp_path / "models", wrong_by=1e-3)
    with pytest.raises(FailureError, match="must not be served"):
        verify(tmp_path / "models", json=True)
    printed = json.loads(capsys.readouterr().out)["models"][0]
    assert not printed["passed"]
    assert printed["signatures"]["count"]["difference"] == pytest.approx(1e-3, rel=1e-2)
    assert "letters[0, 0]" in printed["signatures"]["count"]["faults"][0]


def test_every_fault_of_a_version_is_listed(version):
    extra = version / "assets.extra"
    recorded = requests.read_exchanges(extra / requests.PARITY_FILE)
    requests.write_exchanges(extra / requests.PARITY_FILE, recorded[:1])
    rows = {"text": requests.as_bytes(["a"]), "factor": requests.as_bytes(["no number"])}
    good = {"text": requests.as_bytes(["a"]), "factor": np.array([1], np.int64)}
    requests.write_warmup(extra / WARMUP_FILE, "toy", {"count": rows, "serving_default": good}, [1])
    contract_file = extra / CONTRACT_FILE
    contract_file.write_text(contract_file.read_text().replace('"letters"', '"words"'))
    checked = verify_version(version)
    assert not checked.passed
    assert "warmup, batch 1" in checked.signatures["count"].faults[0]
    assert checked.signatures["serving_default"].faults == ["no recorded request"]
    assert "lists other signatures" in checked.faults[0]


@pytest.mark.parametrize(
    "name",
    [
        "saved_model.pb",
        *(f"assets.extra/{name}" for name in ("parity.npz", "contract.json", WARMUP_FILE)),
    ],
)
def test_a_half_written_version_is_wrong_input(version, name):
    (version / name).write_bytes(b"PK\x03\x04 half")
    with pytest.raises(InputError, match=r"(?i)export again"):
        verify_version(version)
    (version / name).unlink()
    with pytest.raises(InputError, match=r"(?i)export again"):
        verify_version(version)


def test_the_newest_version_of_each_servable_is_found(tmp_path):
    for name in ("toy/9", "toy/10", "toy/.unfinished-1", "other/2", "not_a_servable/a"):
        (tmp_path / name).mkdir(parents=True)
    assert find_versions(tmp_path) == [tmp_path / "other" / "2", tmp_path / "toy" / "10"]
    assert find_versions(tmp_path / "toy") == [tmp_path / "toy" / "10"]
    assert find_versions(tmp_path / "toy" / "9") == [tmp_path / "toy" / "9"]
    (tmp_path / "models" / "20191115" / "toy" / "7").mkdir(parents=True)
    assert find_versions(tmp_path / "models" / "20191115") == [tmp_path / "models" / "20191115" / "toy" / "7"]
    with pytest.raises(InputError, match="no exported version"):
        find_versions(tmp_path / "not_a_servable")


def test_the_verb_prints_a_table_for_people(models, capsys):
    verify(models)
    printed = capsys.readouterr().out
    assert "toy version 1" in printed and "equal" in printed and "gate: portable" in printed


def test_a_wrong_path_is_wrong_input(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        verify(tmp_path / "nowhere")


def test_rows_that_tie_may_change_places_and_others_may_not():
    expected = {
        "news_id": np.array([[b"a", b"b", b"c", b""]]),
        "score": np.array([[0.9, 0.5, 0.5, -1.0]], np.float32),
    }
    swapped = {**expected, "news_id": np.array([[b"a", b"c", b"b", b""]], object)}
    assert replay.compare(expected, swapped)[1] == []
    wrong = {**expected, "news_id": np.array([[b"b", b"a", b"c", b""]], object)}
    assert replay.compare(expected, wrong)[1][0].startswith("news_id[0, 0]")


def test_answers_that_json_cannot_carry_are_faults():
    actual = {"score": np.array([[np.nan, np.inf]], np.float32), "text": np.array([b"\xff", b"ok"], object)}
    assert replay.compare({}, actual)[1] == ["score: 2 not finite", "text: 1 not valid UTF-8"]


def test_exchanges_survive_the_file(tmp_path):
    rows = {"text": requests.as_bytes(["", "é", b"\xff"]), "seed": np.array([1, 2, 3], np.int64)}
    answer = {"title": np.zeros((3, 0), object), "score": np.ones((3, 2), np.float32)}
    requests.write_exchanges(tmp_path / "x.npz", [requests.Exchange("generate", "odd", rows, answer)])
    (read,) = requests.read_exchanges(tmp_path / "x.npz")
    assert (read.signature, read.case) == ("generate", "odd")
    assert read.inputs["text"].tolist() == rows["text"].tolist()
    assert read.outputs["title"].shape == (3, 0) and read.outputs["score"].dtype == np.float32


def test_warmup_has_one_request_for_each_signature_and_batch_size(tmp_path):
    rows = {"text": requests.as_bytes(["a", "b"])}
    requests.write_warmup(tmp_path / "w", "toy", {"one": rows, "two": rows}, [1, 3])
    read = requests.read_warmup(tmp_path / "w")
    assert [(entry.signature, len(entry.inputs["text"])) for entry in read] == [
        ("one", 1),
        ("one", 3),
        ("two", 1),
        ("two", 3),
    ]


def test_the_difference_is_a_number_that_json_can_carry():
    expected = {"score": np.array([[0.5, 0.5]], np.float32)}
    difference, faults = replay.compare(expected, {"score": np.array([[np.nan, 0.75]], np.float32)})
    assert difference == 0.25 and len(faults) == 3
