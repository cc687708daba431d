"""Turns of the wheel, with a run and exports that are real but tiny."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from genre_tf.cli.main import _register, app
from genre_tf.errors import InputError
from genre_tf.export.articles_file import read_articles
from genre_tf.export.models_config import configured
from genre_tf.export.publishing import versions
from genre_tf.files import hold
from genre_tf.serving.app.storage import Store
from genre_tf.serving.loop.turn import (
    LoopOptions,
    _articles,
    _counts,
    _options_like,
    finished_turns,
    take_turn,
)
from genre_tf.serving.operations.version_choice import remove_label, roll_back, served_version, set_label

from .conftest import NOW, Readers, event, impression

NAME = "genre_recommender"


def quiet(line: str) -> None:
    pass


@pytest.fixture
def options(wheel: Path, models: Path, tmp_path: Path) -> LoopOptions:
    return LoopOptions(
        run=wheel / "run",
        models=models,
        database=f"sqlite:///{tmp_path / 'app.db'}",
        turns=tmp_path / "turns",
        least_impressions=50,
        compare_impressions=2_000,
    )


@pytest.fixture
def crowd(options: LoopOptions, readers: Callable[[object], Readers]) -> Iterator[Readers]:
    store = Store(options.database)
    yield readers(store)
    store.close()


def labels(models: Path) -> dict[str, int]:
    return dict(configured(models)[NAME].version_labels)


@pytest.mark.proof
def test_a_better_version_is_promoted_and_then_a_worse_one_rolled_back(
    options: LoopOptions, crowd: Readers
) -> None:
    assert take_turn(options, quiet, lambda: NOW)["outcome"] == "nothing new"
    crowd.read(range(12, 0, -1), 30)
    first = take_turn(options, quiet, lambda: NOW)

    assert "--canary canary=10%" in first["reason"]
    assert first["outcome"] == "comparing" and first["steps"]["check"]["faults"] == 0
    assert labels(options.models) == {"stable": 1, "canary": 2}
    # Readers of both versions after the export: those of the new one click more.
    crowd.read(range(-1, -8, -1), 300, f"{NAME}/1", 0.3, "S")
    crowd.read(range(-1, -8, -1), 300, f"{NAME}/2", 0.9, "C")
    second = take_turn(options, quiet, lambda: NOW + 8 * 3600)

    assert (second["turn"], second["outcome"]) == (1, "promoted"), second["reason"]
    assert labels(options.models) == {"stable": 2} and served_version(options.models, NAME) == 2
    report = (options.turns / "0001" / "report.md").read_text("utf-8")
    assert report.startswith("# Turn 1: promoted") and "| versions | 1 before, 2 new |" in report
    for row in ("faults", "AUC of the run before", "difference of the rates", "seconds of decide"):
        assert f"| {row}" in report, report
    assert json.loads((options.turns / "0001" / "report.json").read_text())["outcome"] == "promoted"

    third = take_turn(options, quiet, lambda: NOW + 8 * 3600)  # with what both groups clicked
    assert (third["turn"], third["outcome"]) == (2, "comparing")
    assert third["from_run"] == str(options.turns / "0001" / "run")
    assert third["first"] == first["steps"]["collect"]["newest_from"]
    crowd.read(range(-10, -16, -1), 300, f"{NAME}/2", 0.9, "S")
    crowd.read(range(-10, -16, -1), 300, f"{NAME}/3", 0.1, "C")
    fourth = take_turn(options, quiet, lambda: NOW + 17 * 3600)

    assert (fourth["turn"], fourth["outcome"]) == (2, "rolled back"), fourth["reason"]
    assert labels(options.models) == {"stable": 2} and served_version(options.models, NAME) == 2
    assert versions(options.models / NAME) == [1, 2, 3]
    assert [state["outcome"] for state in finished_turns(options.turns)] == ["promoted", "rolled back"]


def killed(options: LoopOptions, folder: Path, step: str, wait_s: float) -> None:
    """Take a turn in a process that is killed some time after it begins a step, or at its end."""
    script = folder / "turn.py"
    settings = {name: str(getattr(options, name)) for name in ("run", "models", "turns")}
    script.write_text(
        "from pathlib import Path\nfrom genre_tf.serving.loop.turn import LoopOptions, take_turn\n"
        f"paths = {{name: Path(value) for name, value in {settings!r}.items()}}\n"
        f"options = LoopOptions(database={options.database!r}, least_impressions=50, **paths)\n"
        f"take_turn(options, lambda line: print(line, flush=True), lambda: {NOW})\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.strip().endswith(f": {step}"):
                break
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)


def assert_one_turn(options: LoopOptions) -> dict[str, Any]:
    """The turn goes on to its end and is returned: nothing is half done, counted or exported twice."""
    found = take_turn(options, quiet, lambda: NOW)

    assert (found["turn"], found["outcome"]) == (1, "comparing")
    assert found["steps"]["collect"]["impressions"] == 360
    assert versions(options.models / NAME) == [1, 2]
    assert labels(options.models) == {"stable": 1, "canary": 2}
    assert sorted(path.name for path in options.turns.iterdir()) == [".lock", "0001"]
    assert not [*options.turns.rglob("*.partial-*"), *options.turns.rglob("*.part")]
    again = take_turn(options, quiet, lambda: NOW)
    assert {**again, "reason": ""} == {**found, "reason": ""}
    old, new = ({one.news_id for one in read_articles(options.models / NAME / each)} for each in "12")
    assert old == new, "what nobody was shown stays in the pool"
    return again


def test_a_turn_that_is_killed_goes_on_and_exports_once(
    options: LoopOptions, crowd: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take_turn(options, quiet, lambda: NOW)["outcome"] == "nothing new"
    crowd.read(range(12, 0, -1), 30)
    for step in ("collect", "train", "export"):
        killed(options, tmp_path, step, random.random())
    state = assert_one_turn(options)
    assert "--canary canary=10%" in state["reason"] and state["steps"]["check"]["faults"] == 0
    del state["steps"]["export"], state["comparison"]  # killed after publishing, before it was written down
    (options.turns / "0001" / "turn.json").write_text(json.dumps(state))

    def export_run(*_: object) -> None:
        raise AssertionError("exported twice")

    monkeypatch.setattr("genre_tf.export.exporting.export_run", export_run)
    again = take_turn(options, quiet, lambda: NOW)

    assert again["steps"]["export"]["new"] == 2 and versions(options.models / NAME) == [1, 2]


@pytest.mark.proof
def test_a_turn_that_is_killed_often_goes_on(options: LoopOptions, crowd: Readers, tmp_path: Path) -> None:
    crowd.read(range(12, 0, -1), 30)
    for step in ("collect", "check", *["train"] * 3, *["evaluate"] * 2, *["export"] * 4):
        killed(options, tmp_path, step, random.uniform(0, 6))
    assert_one_turn(options)


@pytest.fixture
def exported(options: LoopOptions) -> LoopOptions:
    """A turn that has exported version 2; a copy of version 1, which is quicker than an export."""
    folder = options.models / NAME
    shutil.copytree(folder / "1", folder / "2")
    set_label(options.models, NAME, "stable", 1, load=True)
    set_label(options.models, NAME, "canary", 2, load=True)
    (options.turns / "0001").mkdir(parents=True)
    done: dict[str, dict[str, object]] = {name: {} for name in ("collect", "check", "train", "evaluate")}
    steps = {**done, "export": {"present": 1, "new": 2, "time": NOW}}
    state = {"turn": 1, "name": "0001", "outcome": "comparing", "reason": "", "from_run": str(options.run)}
    state_file = options.turns / "0001" / "turn.json"
    state_file.write_text(json.dumps({**state, "first": 0, "until": 3600, "steps": steps, "before": [1]}))
    return options


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of steps that did not happen."""
    monkeypatch.setattr("genre_tf.serving.loop.turn.write_report", lambda state, folder: None)


@pytest.mark.usefixtures("no_report")
def test_without_readers_of_the_new_version_the_app_is_to_be_told(
    exported: LoopOptions, crowd: Readers
) -> None:
    crowd.read(range(-1, -3, -1), 50, f"{NAME}/1")
    found = take_turn(exported, quiet, lambda: NOW)

    assert found["outcome"] == "comparing" and "--canary canary=10%" in found["reason"]
    assert labels(exported.models) == {"stable": 1, "canary": 2}


@pytest.mark.usefixtures("no_report")
def test_a_version_that_somebody_took_back_stays_back(exported: LoopOptions, crowd: Readers) -> None:
    roll_back(exported.models, NAME, 1)
    remove_label(exported.models, NAME, "canary")
    crowd.read(range(-1, -8, -1), 300, f"{NAME}/1", 0.3, "S")
    crowd.read(range(-1, -8, -1), 300, f"{NAME}/2", 0.9, "C")
    found = take_turn(exported, quiet, lambda: NOW + 8 * 3600)

    assert found["outcome"] == "ended by hand"
    assert labels(exported.models) == {"stable": 1} and served_version(exported.models, NAME) == 1


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(("rate", "outcome", "served"), [(0.1, "rolled back", 1), (0.9, "promoted", 2)])
def test_a_turn_that_is_killed_while_it_decides_decides_the_same(
    exported: LoopOptions, crowd: Readers, monkeypatch: pytest.MonkeyPatch, rate, outcome, served
) -> None:
    crowd.read(range(-1, -8, -1), 300, f"{NAME}/1", 0.3, "S")
    crowd.read(range(-1, -8, -1), 300, f"{NAME}/2", rate, "C")

    class KilledError(Exception):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:  # the label canary is gone already, nothing else is done
        patched.setattr("genre_tf.serving.loop.turn.roll_back", kill)
        with pytest.raises(KilledError):
            take_turn(exported, quiet, lambda: NOW + 8 * 3600)
    assert "canary" not in labels(exported.models)
    crowd.read(range(-8, -16, -1), 300, f"{NAME}/2", 0.5, "C")  # more readers change no decision
    found = take_turn(exported, quiet, lambda: NOW + 8 * 3600)

    assert found["outcome"] == outcome and labels(exported.models) == {"stable": served}
    assert served_version(exported.models, NAME) == served


def test_clicks_are_counted_by_reader_since_the_new_version_first_answered(database: str) -> None:
    store = Store(database)
    for number, (reader, at, version) in enumerate(
        [("A", 5, 1), ("A", 20, 1), ("A", 21, 3), ("B", 10, 2), ("B", 30, 2), ("C", 40, 2)]
    ):
        impression(store, f"i{number}", reader, NOW + at, ["N1", "N2"], f"{NAME}/{version}")
    impression(store, "none", "D", NOW + 50, ["N1"], "popular")
    for article in ("N1", "N1", "N2"):
        event(store, "B", "click", article, NOW + 35, "i4")
    event(store, "A", "click", "N1", NOW + 36, "i4")  # another reader's
    event(store, "A", "click", "N1", NOW + 36, "i2")
    event(store, "A", "click", "N1", NOW + 36, "i0")  # before the new version answered
    found = _counts(store, 2, NOW)
    store.close()

    assert found == ({"A": (2, 1)}, {"B": (2, 2), "C": (1, 0)})


def test_a_version_is_exported_as_the_present_one_was(models: Path) -> None:
    file = models / NAME / "1" / "assets.extra" / "contract.json"
    contract = json.loads(file.read_text("utf-8"))
    contract["sizes"] |= {"k": 7, "retrieve": 70, "max_per_category": 2}
    file.write_text(json.dumps(contract))
    options = _options_like(models, 1)

    assert (options.k, options.retrieve, options.rules.max_per_category) == (7, 70, 2)
    assert not options.generator


def test_what_a_refresh_changed_is_in_the_next_log(wheel: Path, models: Path) -> None:
    file = models / NAME / "1" / "assets.extra" / "articles.jsonl"
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    lines[0]["withdrawn"] = True
    lines[1] |= {"title": "Another title", "text": "Another title. And a text."}
    lines.append({**lines[2], "news_id": "NEW", "title": "New!", "text": "New! Text"})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = _articles(models, wheel / "run")

    assert found[lines[0]["news_id"]].withdrawn and not found[lines[1]["news_id"]].withdrawn
    changed, new = found[lines[1]["news_id"]], found["NEW"]
    assert (changed.title, changed.abstract) == ("Another title", "And a text.")
    assert (new.title, new.abstract) == ("New!", "Text")


def test_one_hour_begins_no_turn(options: LoopOptions, crowd: Readers) -> None:
    crowd.read(range(3, 2, -1), 200)

    assert take_turn(options, quiet, lambda: NOW)["outcome"] == "nothing new"
    assert not list(options.turns.glob("0*"))


def test_a_database_that_is_not_there_is_not_made(options: LoopOptions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no database .*app.db: give the --database"):
        take_turn(options, quiet)
    assert not (tmp_path / "app.db").exists()


@pytest.mark.usefixtures("crowd")
def test_the_verb_ends_well_where_nothing_is_new(options: LoopOptions) -> None:
    _register("loop")
    words = ["loop", str(options.run), str(options.models), "--database", options.database]
    words += ["--turns", str(options.turns)]
    told = CliRunner().invoke(app, [*words, "--json"])
    plain = CliRunner().invoke(app, words)

    assert (told.exit_code, plain.exit_code) == (0, 0), told.output
    assert json.loads(told.stdout)["outcome"] == "nothing new"
    assert plain.stdout == "nothing new: fewer than 1000 new impressions with a click, or of one hour alone\n"


def test_a_second_turn_at_once_is_refused(options: LoopOptions) -> None:
    options.turns.mkdir()
    lock = hold(options.turns / ".lock", create=True)
    (options.turns / ".lock").write_text("4711\n")
    with pytest.raises(InputError, match=r"process 4711 is taking a turn in .*turns: wait for it"):
        take_turn(options, quiet)
    os.close(lock)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"run": Path("/nowhere")}, "/nowhere is not a run folder"),
        ({"models": Path("/nowhere")}, "serves no genre_recommender|no folder"),
        ({"error_rate": 1.0}, "--error-rate must be above 0 and below 1; got 1.0"),
        ({"database": "mysql://x"}, "--database must be SQLite or PostgreSQL"),
    ],
)
def test_wrong_input_is_named(options: LoopOptions, wrong: dict[str, object], message: str) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match=message):
        take_turn(replace(options, **wrong), quiet)
