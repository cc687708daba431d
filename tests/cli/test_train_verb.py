"""`genre train`: wrong input is said in a line or two, with exit status 2; nothing is left half-written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from genre_tf.cli import train
from genre_tf.config import read_config
from genre_tf.errors import InputError
from genre_tf.training import run_folder

ROWS = "\t".join(["N{0}", "sports", "tennis", "title number {0}", "", "", "[]", "[]"])


def _process(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "genre_tf.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    (folder / "news.tsv").write_text("".join(ROWS.format(n) + "\n" for n in range(1, 9)))
    line = "{n}\tU{n}\t11/9/2019 1:{n:02}:00 AM\tN1 N2\tN{a}-1 N{b}-0 N7-0"
    (folder / "behaviors.tsv").write_text(
        "".join(line.format(n=n, a=3 + n % 4, b=3 + (n + 1) % 4) + "\n" for n in range(1, 41))
    )
    return tmp_path / "data"


def _refused(found: "subprocess.CompletedProcess[str]", *said: str) -> None:
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    for words in said:
        assert words in found.stderr
    assert not found.stdout


def test_wrong_paths_and_names(tmp_path, data):
    run = tmp_path / "run"
    _refused(
        _process("train", "all", "--data", tmp_path / "gone", "--run", run), "holds no train folder", "gone"
    )
    _refused(_process("train", "everything", "--data", data, "--run", run), "everything", "retrieval")
    _refused(_process("train", "all", "--data", data, "--run", run, "--epoch", "3"), "--epoch", "--epochs")
    toml = tmp_path / "mine.toml"
    toml.write_text("[news]\nbackbon = 'tiny'\n")
    _refused(
        _process("train", "all", "--data", data, "--run", run, "--config", toml), "unknown key 'backbon'"
    )
    assert not run.exists()


def test_options_become_settings_of_their_stage(tmp_path, data, monkeypatch):
    given: list[tuple] = []
    monkeypatch.setattr(run_folder, "train", lambda *arguments, **_: given.append(arguments) or {})
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(train.train)
    options = ["--objective", "softmax", "--teacher", "runs/large"]
    options += ["--writer-trainable", "lora 8"]
    answer = CliRunner().invoke(app, ["ranking", "--data", str(data), "--run", "run", "--json", *options])
    assert answer.exit_code == 0, answer.output
    ranking, generation = given[0][3].ranking, given[0][3].generation
    assert (ranking.objective, ranking.teacher) == ("softmax", str(tmp_path / "runs" / "large"))
    assert generation.trainable == "lora 8"
    options = ["--writer-backbone", "hf://gpt2", "--learning-rate", "0.25", "--json"]
    CliRunner().invoke(app, ["generation", "--data", str(data), "--run", "run", *options])
    generation = given[1][3].generation
    assert generation.adaptation.learning_rate == 0.25 != generation.optimizer.learning_rate


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        (["40"], {"ranking": 40, "generation": 40}),
        (["ranking=7"], {"ranking": 7}),
        (["ranking=7, generation=9"], {"ranking": 7, "generation": 9}),
        (["generation=9", "40"], {"ranking": 40, "generation": 9}),
    ],
)
def test_steps_are_for_all_stages_or_for_one(given, steps):
    assert train.steps_by_stage(given, ("ranking", "generation")) == steps


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("retrieval=3", "this command trains ranking, generation"),
        ("rank=3", "this command trains ranking, generation"),
        ("0", "at least 1, or STAGE=NUMBER with one of retrieval, ranking, generation; got '0'"),
        ("ranking=many", "got 'ranking=many'"),
        ("ranking=3,", "got ''"),
    ],
)
def test_wrong_steps_name_the_stages(given, said):
    with pytest.raises(InputError, match=said):
        train.steps_by_stage([given], ("ranking", "generation"))


def test_epochs_end_a_limit_of_steps(tmp_path, data, monkeypatch):
    given: list[tuple] = []
    monkeypatch.setattr(run_folder, "train", lambda *arguments, **_: given.append(arguments) or {})
    (tmp_path / "mine.toml").write_text("[generation.optimizer]\nsteps = 50\nmost_steps = 70\n")
    app = typer.Typer()
    app.command()(train.train)
    options = ["--data", str(data), "--run", "run", "--json", "--config", str(tmp_path / "mine.toml")]
    for more in ([], ["--epochs", "2"], ["--epochs", "2", "--steps", "generation=30"]):
        assert CliRunner().invoke(app, ["all", *options, *more]).exit_code == 0
    assert [each[3].generation.optimizer.steps_of(100) for each in given] == [50, 200, 30]


def test_wrong_backbones(tmp_path, data, genre):
    run = tmp_path / "run"
    common = ("--data", data, "--run", run)
    _refused(genre("train", "ranking", *common, "--news-backbone", tmp_path / "bert"), "bert")
    _refused(
        genre("train", "ranking", *common, "--news-backbone", "package:no_such_package/model"),
        "no_such_package",
    )
    _refused(
        genre("train", "ranking", *common, "--news-backbone", "tiny", "--trainable", "some"),
        "last N",
        "'some'",
    )
    assert not (run / "ranking").exists()


def test_a_run_goes_on_with_the_same_settings_and_refuses_others(tmp_path, data, genre):
    common = ("--data", data, "--run", tmp_path / "run", "--steps", 2)
    first = genre("train", "retrieval", *common, "--news-backbone", "tiny")
    assert first.returncode == 0, first.stderr
    assert re.search(r"^retrieval +pool_ndcg +0\.\d{4} ", first.stdout, re.MULTILINE)
    second = genre("train", "ranking", *common, "--accumulate", 2, "--steps-per-execution", 2, "--json")
    assert second.returncode == 0, second.stderr
    result = json.loads(second.stdout)["ranking"]
    assert result["steps"] == 2 and 0 < result["input_wait_share"] < 1
    settings = read_config(tmp_path / "run" / "config.toml")
    assert (settings.ranking.optimizer.accumulate, settings.retrieval.optimizer.accumulate) == (2, 1)
    assert settings.ranking.optimizer.steps_per_execution == 2
    assert (tmp_path / "run" / "ranking" / "model.weights.h5").is_file()
    _refused(genre("train", "ranking", *common, "--trainable", "last 1"), "made with other")


def test_a_strategy_that_cannot_be_had_is_said_before_any_work(tmp_path, data, genre, monkeypatch):
    for name in ("TF_CONFIG", "TPU_NAME"):
        monkeypatch.delenv(name, raising=False)
    common = ("train", "all", "--data", data, "--run", tmp_path / "run")
    _refused(genre(*common, "--strategy", "several"), "several", "multiworker")
    _refused(genre(*common, "--strategy", "multiworker"), "TF_CONFIG, which is not set", '"cluster"')
    _refused(genre(*common, "--strategy", "tpu"), "no TPU and none is named", "--tpu")
    assert not (tmp_path / "run").exists()
