"""The command line teaches: examples, suggestions, silence on request, completion, tables."""

import importlib
import importlib.metadata
import inspect
import os
import re
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from genre_tf.cli.console import progress
from genre_tf.cli.main import VERBS, _register, app
from genre_tf.cli.train import quality_table, training_table
from genre_tf.training.progress import FitResult
from genre_tf.training.quality import Quality

NOT_COMPARED = {"model": "writer", "metric": "perplexity", "measured_on": "dev", "value": 90.0}


@pytest.fixture(scope="module")
def runner() -> CliRunner:
    for name in VERBS:
        _register(name)
    return CliRunner()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_that_its_own_options_allow(verb, runner):
    module = importlib.import_module(f"genre_tf.cli.{VERBS[verb]}")
    lines = inspect.getdoc(getattr(module, verb.replace("-", "_"))).split("\n")
    examples = [line.removeprefix("Example: ") for line in lines if line.startswith("Example: ")]
    assert len(examples) == 1
    words = shlex.split(examples[0])
    assert words[:2] == ["genre", verb]
    shown = runner.invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "Example:" in shown
    for word in words[2:]:
        if word.startswith("--"):
            assert f"{word} " in shown, word


def test_a_mistyped_verb_or_option_is_answered_with_the_right_one(runner):
    assert "'train'" in runner.invoke(app, ["trian"]).output
    answer = runner.invoke(app, ["train", "all", "--data", "x", "--run", "y", "--stpes", "3"])
    assert answer.exit_code == 2 and "--steps" in answer.output


def test_quiet_leaves_the_results_and_the_errors(genre, tmp_path):
    loud = genre("synth", tmp_path / "a", "--articles", "100", "--readers", "8", "--impressions", "12")
    quiet = genre(
        "synth", tmp_path / "b", "--articles", "100", "--readers", "8", "--impressions", "12", "--quiet"
    )
    assert "writing" in loud.stderr and not quiet.stderr
    assert quiet.stdout and loud.stdout.replace("/a", "/b") == quiet.stdout
    refused = genre("check", tmp_path / "gone", "--quiet")
    assert refused.returncode == 2 and "gone" in refused.stderr
    genre("check", tmp_path / "b")
    assert not progress.quiet


def test_shells_complete_verbs(runner):
    asked = {"_GENRE_COMPLETE": "complete_bash", "COMP_WORDS": "genre ser", "COMP_CWORD": "1"}
    found = runner.invoke(app, [], env=asked, prog_name="genre").output.split()
    assert found == ["serve", "serving-files"]


def test_the_last_table_tells_a_gain_from_chance(capsys):
    from rich.console import Console

    ends = {"low": 0.645, "high": 0.675, "gain": 0.021, "gain_low": 0.008, "gain_high": 0.034}
    better = Quality(
        model="ranker",
        metric="auc",
        measured_on="dev",
        value=0.66,
        baseline="category",
        baseline_value=0.639,
        **ends,
    )
    writer = Quality(
        model="writer",
        metric="perplexity",
        measured_on="validation",
        value=84.06,
        low=80.0,
        high=88.0,
        baseline="unigram",
        baseline_value=640.0,
        gain=0.869,
        gain_low=0.86,
        gain_high=0.88,
    )
    Console(width=140).print(quality_table([writer, better, Quality(**NOT_COMPARED)]))
    heads, *rows = (
        [cell.strip() for cell in re.split(r" {2,}", line.strip())]
        for line in capsys.readouterr().out.rstrip("\n").split("\n")
    )
    assert heads == ["model", "metric", "measured on", "value [95 %]", "best baseline", "gain [95 %]"]
    gain, value = "+0.021 [+0.008, +0.034]", "0.660 [0.645, 0.675]"
    assert rows[2] == ["ranker", "AUC", "dev", value, "category 0.639", gain, "better"]
    gain, value = "+86.9% [+86.0%, +88.0%]", "84.1 [80.0, 88.0]"
    assert rows[0] == ["writer", "perplexity", "validation", value, "unigram 640.0", gain, "better"]
    assert rows[1] == ["writer", "perplexity", "dev", "90.0"]


def test_a_training_ends_with_a_table(capsys):
    from rich.console import Console

    result = FitResult("auc", 0.5, 0.6543, 30, 40, True, 12.3, 3.0, 0.1, 1.25, 1234567)
    Console(width=120).print(training_table({"ranking": result}))
    heads, row = capsys.readouterr().out.rstrip("\n").split("\n")
    assert heads.split()[:4] == ["stage", "validation", "before", "best"]
    assert row.split() == [
        "ranking",
        "auc",
        "0.5000",
        "0.6543",
        "30",
        "40",
        "(stopped",
        "early)",
        "1,234,567",
        "12",
        "1.2",
    ]


@pytest.mark.parametrize(("columns", "lines"), [(None, 1), ("40", 3)])
def test_a_table_in_a_pipe_is_cut_only_where_a_width_is_asked_for(columns, lines):
    code = (
        "from rich.table import Table\n"
        "from genre_tf.cli.console import results\n"
        "table = Table.grid()\n"
        "table.add_row('word ' * 20)\n"
        "results.print(table)"
    )
    asked = {} if columns is None else {"COLUMNS": columns}
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | asked
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert len(run.stdout.strip().split("\n")) == lines and run.stdout.count("word") == 20


def test_the_version_is_that_of_the_installed_package(runner):
    shown = runner.invoke(app, ["--version"]).output
    assert shown == f"genre_tf {importlib.metadata.version('genre-tf')}\n"
