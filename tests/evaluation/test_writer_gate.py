"""The gate for quality: what is measured, what is refused, and what is kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genre_tf.config import GateConfig, GenerationConfig, read_config
from genre_tf.errors import FailureError
from genre_tf.evaluation import writer_gate
from genre_tf.evaluation.writer_gate import (
    GateReport,
    Level,
    checked_writer,
    judge_of,
    levels_of,
    require_quality,
)
from genre_tf.generation.grounding import Grounding
from genre_tf.models.checkpoint import load_generator, load_two_tower

GOOD = Level(0.9, 0.8, 0.7)


@pytest.mark.parametrize(
    ("levels", "failed"),
    [
        ({"grounding": GOOD, "topic": GOOD}, []),
        ({"grounding": Level(0.69, 0.8, 0.7), "topic": GOOD}, ["grounding"]),
        ({"fluency": Level(float("nan"), -4.0, -5.0)}, ["fluency"]),
        ({"fluency": Level(-5.0, -4.0, -5.0)}, []),
    ],
)
def test_a_writer_below_the_floor_is_refused_by_name(levels: dict[str, Level], failed: list[str]) -> None:
    report = GateReport(50, "some/model", levels)
    assert report.failed == failed
    assert sum("too low" in line for line in report.lines()) == len(failed)
    if failed:
        with pytest.raises(FailureError, match=rf"\({failed[0]}\).*--allow-poor-writer"):
            require_quality(Path("run"), report)
    else:
        require_quality(Path("run"), report)


def test_without_a_judge_fluency_is_not_measured_and_that_is_said() -> None:
    said = "\n".join(GateReport(50, "", {"topic": GOOD}).lines())
    assert "fluency is not measured" in said
    assert "fluency" not in "\n".join(GateReport(50, "m", {"topic": GOOD}).lines())


def test_the_judge_is_the_installed_model_or_the_writers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    named = GenerationConfig(backbone="hf://gpt2")
    for installed, settings, judge in (
        ("package:a/b.gguf", named, "package:a/b.gguf"),
        (None, named, "hf://gpt2"),
        (None, GenerationConfig(), ""),
        (None, GenerationConfig(backbone="tiny"), ""),
    ):
        monkeypatch.setattr("genre_tf.models.new_writer.pretrained_writer", lambda found=installed: found)
        assert judge_of(settings, ["Storm closes schools"]) == judge


def test_written_headlines_are_measured_beside_the_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = ["Rain hits Rome", "Cup for Ann", "Snow 7 days"]
    sources = ["Rain fell in Rome.", "Ann won a cup.", "It snowed."]
    written = ["Rain in Oslo", "", "snow"]
    monkeypatch.setattr(
        writer_gate, "topic", lambda news, texts, about: np.array([2.0 * (t in titles) - 1 for t in texts])
    )
    asked: list[Any] = []

    def fluency(texts: Any) -> Any:
        asked.append(list(texts))
        return np.full(len(texts), -4.0)

    news: Any = None
    gate = GateConfig(fluency_gap=2.0, grounding_gap=0.25, topic_share=0.5)
    grounding = Grounding(["rain", "hits", "cup", "for", "snow", "days"])
    found = levels_of(written, titles, sources, news, fluency, grounding, gate)
    assert asked == [titles, written]
    assert found["fluency"] == Level(pytest.approx((-4.0 - 11.0 - 4.0) / 3), -4.0, -6.0)
    assert found["grounding"].real == pytest.approx(2 / 3), "no 7 days"
    assert found["grounding"].written == pytest.approx(2 / 3), "no Oslo"
    assert (found["topic"].written, found["topic"].real, found["topic"].least) == (-1.0, 1.0, 1.0)
    assert not found["fluency"].passes and not found["topic"].passes
    assert set(levels_of(written, titles, sources, news, None, grounding, gate)) == {"grounding", "topic"}


def test_a_measurement_is_kept_until_weights_or_settings_change(
    writing_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(writing_run, run)
    config, writer = read_config(run / "config.toml"), load_generator(run)
    monkeypatch.setattr("genre_tf.models.new_writer.pretrained_writer", lambda: None)
    monkeypatch.setattr(writer_gate, "LEAST_TEXTS", 1)
    monkeypatch.setattr(writer_gate, "MIN_ABSTRACT_WORDS", 1)
    said: list[str] = []

    def news() -> Any:
        return load_two_tower(run).news

    first = checked_writer(run, config, writer, news, said.append)
    assert first is not None and set(first.levels) == {"grounding", "topic"} and not first.judge
    assert all(np.isfinite([level.written, level.real]).all() for level in first.levels.values())
    kept = json.loads((run / "reports" / "writer-gate.json").read_text("utf-8"))
    assert kept["texts"] == first.texts > 0
    assert checked_writer(run, config, writer, refused, said.append) == first
    changed = replace(config, generation=replace(config.generation, gate=GateConfig(topic_share=0.1)))
    with pytest.raises(AssertionError, match="measured again"):
        checked_writer(run, changed, writer, refused, said.append)
    monkeypatch.setattr(writer_gate, "LEAST_TEXTS", 1000)
    assert checked_writer(run, changed, writer, refused, said.append) is None
    assert "too few articles" in said[-1]


def refused() -> Any:
    raise AssertionError("measured again")
