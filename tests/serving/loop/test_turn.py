"""Turns of the wheel, with a run and exports that are real but tiny."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genre_tf.errors import InputError
from genre_tf.export.models_config import configured
from genre_tf.export.publishing import versions
from genre_tf.files import hold
from genre_tf.serving.app.storage import Store
from genre_tf.serving.loop.turn import LoopOptions, finished_turns, take_turn
from genre_tf.serving.operations.version_choice import served_version

from .conftest import NOW, Readers

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


def test_a_better_version_is_promoted_and_then_a_worse_one_rolled_back(
    options: LoopOptions, crowd: Readers
) -> None:
    assert take_turn(options, quiet, lambda: NOW)["outcome"] == "nothing new"
    crowd.read(range(12, 0, -1), 30)
    first = take_turn(options, quiet, lambda: NOW)

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


def test_a_turn_that_is_killed_goes_on(options: LoopOptions, crowd: Readers, tmp_path: Path) -> None:
    crowd.read(range(12, 0, -1), 30)
    script = tmp_path / "turn.py"
    settings = {name: str(getattr(options, name)) for name in ("run", "models", "turns")}
    script.write_text(
        "from pathlib import Path\nfrom genre_tf.serving.loop.turn import LoopOptions, take_turn\n"
        f"paths = {{name: Path(value) for name, value in {settings!r}.items()}}\n"
        f"options = LoopOptions(database={options.database!r}, least_impressions=50, **paths)\n"
        f"take_turn(options, lambda line: print(line, flush=True), lambda: {NOW})\n"
    )
    for step in ("train", "evaluate", "export"):
        with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.strip().endswith(f": {step}"):
                    break
            time.sleep(random.random())  # somewhere within the step
            process.send_signal(signal.SIGKILL)
    found = take_turn(options, quiet, lambda: NOW)

    assert (found["turn"], found["outcome"]) == (1, "comparing")
    assert found["steps"]["collect"]["impressions"] == 360
    assert versions(options.models / NAME) == [1, 2]
    assert labels(options.models) == {"stable": 1, "canary": 2}
    assert sorted(path.name for path in options.turns.iterdir()) == [".lock", "0001"]


def test_a_second_turn_at_once_is_refused(options: LoopOptions) -> None:
    options.turns.mkdir()
    lock = hold(options.turns / ".lock", create=True)
    (options.turns / ".lock").write_text("4711\n")
    with pytest.raises(InputError, match=r"process 4711 is taking a turn in .*turns: wait for it"):
        take_turn(options, quiet)
    os.close(lock)


def test_a_published_version_of_a_killed_turn_is_not_exported_again(
    options: LoopOptions, crowd: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.read(range(12, 0, -1), 30)
    state = take_turn(options, quiet, lambda: NOW)
    del state["steps"]["export"], state["comparison"]  # killed after publishing, before it was written down
    (options.turns / "0001" / "turn.json").write_text(json.dumps(state))

    def export_run(*_: object) -> None:
        raise AssertionError("exported twice")

    monkeypatch.setattr("genre_tf.export.exporting.export_run", export_run)
    again = take_turn(options, quiet, lambda: NOW)

    assert again["steps"]["export"]["new"] == 2 and versions(options.models / NAME) == [1, 2]


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
