"""`genre verify` refuses what is broken or not portable: a line for each fault, and an exit status."""

import contextlib
import json
import shutil

import pytest
from tensorflow.core.protobuf import saved_model_pb2

from genre_tf.cli import main
from genre_tf.cli.export import verify
from genre_tf.contract import CONTRACT_FILE
from genre_tf.errors import FailureError, InputError
from genre_tf.export import verification
from genre_tf.export.requests import PARITY_FILE
from genre_tf.export.verification import FreshProcess, fresh_process


@pytest.fixture(scope="module")
def good(tmp_path_factory, publish_toy):
    root = tmp_path_factory.mktemp("refused") / "models"
    publish_toy(root)
    return root


@pytest.fixture(scope="module")
def answers(good):
    """What a fresh process answers of the good version."""
    version = good / "toy" / "1"
    with fresh_process() as process:
        process.load(version)
        process.ask(version / "assets.extra" / PARITY_FILE)
        return process.answers()


@pytest.fixture
def answered(answers, monkeypatch):
    """For what is wrong beside the answers: these are known, no process computes them again."""

    class Answered(FreshProcess):
        def __init__(self):
            self.only = ()

        def load(self, version):
            pass

        def ask(self, parity):
            pass

        def answers(self):
            return answers

    monkeypatch.setattr(verification, "fresh_process", lambda: contextlib.nullcontext(Answered()))


@pytest.fixture
def models(good, tmp_path):
    return shutil.copytree(good, tmp_path / "models")


def faults(models, capsys):
    """Every line that a failed verification prints; exit status 1."""
    with pytest.raises(FailureError, match="version 1: must not be served"):
        verify(models, json=True)
    (checked,) = json.loads(capsys.readouterr().out)["models"]
    found = [*checked["violations"], *checked["faults"]]
    found += [fault for check in checked["signatures"].values() for fault in check["faults"]]
    assert found and all("\n" not in fault for fault in found)
    return found


def edit_graph(models, change):
    file = models / "toy" / "1" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(model.meta_graphs[0])
    file.write_bytes(model.SerializeToString())


def test_a_missing_or_cut_variables_file(models, capsys):
    variables = models / "toy" / "1" / "variables"
    data = next(variables.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:-4])
    cut = faults(models, capsys)
    assert "the files in variables/ are not those that contract.json was written for" in cut[0]
    assert "does not load in a session" in cut[1]
    data.unlink()
    assert "does not load in a session" in faults(models, capsys)[1]


def test_a_missing_asset(models, capsys, answered):
    edit_graph(models, lambda graph: graph.asset_file_def.add(filename="news_ids.txt"))
    assert "assets/news_ids.txt is missing" in faults(models, capsys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"servable": "other"}, "is for servable 'other', but the folder is for 'toy'"),
        ({"signatures": {}}, "lists other signatures"),
        ({"fingerprints": {"weights": "0"}}, "not those that contract.json"),
        ({"fingerprints": None}, "not those that contract.json"),
    ],
)
def test_a_wrong_contract(models, capsys, answered, change, words):
    file = models / "toy" / "1" / "assets.extra" / CONTRACT_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    (fault,) = faults(models, capsys)
    assert words in fault


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ("XlaSort", "XLA op"),
        ("PyFunc", "calls Python"),
        ("MutableHashTableV2", "grows with the traffic"),
        ("DecodeJxl", "in TensorFlow Serving 2.20"),
        ("SomethingOfOurs", "not an op of TensorFlow or TensorFlow Text"),
    ],
)
def test_an_op_that_no_server_runs(models, capsys, answered, op, words):
    edit_graph(models, lambda graph: graph.graph_def.node.add(name="stranger", op=op))
    found = faults(models, capsys)
    assert found[0].startswith(f"op {op} in the main graph: ") and words in found[0]


def test_an_op_that_no_process_loads(models, capsys):
    edit_graph(models, lambda graph: graph.graph_def.node.add(name="stranger", op="SomethingOfOurs"))
    assert any("does not load in a session" in fault for fault in faults(models, capsys))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_graph_is_wrong_input(models, share):
    file = models / "toy" / "1" / "saved_model.pb"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(InputError, match=r"saved_model\.pb is (damaged|empty)"):
        verify(models)


def test_exit_status_and_one_line_by_the_command_line(models, monkeypatch, capsys):
    (models / "toy" / "1" / "saved_model.pb").unlink()
    monkeypatch.setattr("sys.argv", ["genre", "verify", str(models)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("genre: no SavedModel in") and "export again" in last
