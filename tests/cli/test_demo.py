"""`genre demo --quick`: every stage of the road on a tiny backbone, answers read back from a live server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def _demo(out: Path) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-m",
        "genre_tf.cli.main",
        "demo",
        str(out),
        "--quick",
        "--news-backbone",
        "tiny",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_the_whole_road(tmp_path):
    found = _demo(tmp_path / "demo")
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("recommended") == 2, "two readers"
    assert found.stdout.count("from an article") == 2
    assert "of the way" in found.stdout
    report = json.loads((tmp_path / "demo" / "run" / "reports" / "evaluation-dev.json").read_text("utf-8"))
    assert set(report["models"]) == {"two_tower", "ranker", "ranker_counters"}
    for servable in ("genre_recommender", "genre_generator"):
        version = tmp_path / "demo" / "models" / servable / "1"
        assert (version / "saved_model.pb").is_file()
        assert (version / "assets.extra" / "tf_serving_warmup_requests").is_file()
    assert list((tmp_path / "demo" / "run" / "logs").rglob("events.*"))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    found = _demo(tmp_path)
    assert found.returncode == 2 and "is no demo" in found.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
