"""`genre tune`: trials under one run folder, best settings in a file, gone on with when asked again."""

import json
from pathlib import Path

import pytest

from genre_tf.config import NewsConfig, RunConfig, read_config, write_config
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings
from genre_tf.training.tuning import HYPER_PARAMETERS, known_names, with_values

from .conftest import Genre

pytest.importorskip("keras_tuner", reason="keras-tuner is not installed: pip install 'genre-tf[tune]'")
SMALL_ROOM = NewsroomSettings(seed=3, articles=300, readers=60, impressions=480)


@pytest.mark.parametrize("stage", ["retrieval", "ranking", "generation"])
def test_every_named_setting_finds_its_place(stage):
    names = known_names(stage)
    values = {name: (HYPER_PARAMETERS[name].choices or (HYPER_PARAMETERS[name].high,))[-1] for name in names}
    if stage == "ranking":
        assert {"objective", "popularity_debias", "label_smoothing", "contrastive"} < set(names)
        assert RunConfig().ranking.optimizer.batch_size in HYPER_PARAMETERS["batch_size"].choices
    changed = with_values(RunConfig(), stage, values)
    assert changed != RunConfig() and len(names) > 4
    for name, value in values.items():
        place = {"news": changed.news, "stage": getattr(changed, stage)}.get(
            HYPER_PARAMETERS[name].place, getattr(changed, stage).optimizer
        )
        assert getattr(place, name) == value


@pytest.mark.proof
def test_a_search_leaves_the_best_settings_and_goes_on_with_more_trials(tmp_path: Path, genre: Genre):
    write_newsroom(tmp_path / "room", SMALL_ROOM)
    common = ["ranking", "--data", tmp_path / "room", "--run", tmp_path / "run", "--news-backbone", "tiny"]
    common += ["--steps", 3, "--search", "learning_rate,dropout"]
    first = genre("tune", *common, "--trials", 2)
    assert first.returncode == 0, first.stderr
    assert "trial 1 of 2" in first.stderr and "trial 2 of 2" in first.stderr
    second = genre("tune", *common, "--trials", 3, "--json")
    assert second.returncode == 0, second.stderr
    assert "trial 3 of 3" in second.stderr and "trial 1 of 3" not in second.stderr
    found = json.loads(second.stdout)
    assert [trial["value"] for trial in found["trials"]] == sorted(
        (trial["value"] for trial in found["trials"]), reverse=True
    )
    best = read_config(Path(found["file"]))
    assert best.ranking.optimizer.learning_rate == found["best"]["learning_rate"]
    assert best.news.dropout == found["best"]["dropout"]
    assert len(list((tmp_path / "run" / "logs" / "tuning" / "ranking").iterdir())) == 3


def test_a_search_leaves_the_settings_of_a_run_alone(tmp_path: Path, genre: Genre):
    write_newsroom(tmp_path / "room", SMALL_ROOM)
    run = tmp_path / "run"
    run.mkdir()
    kept = RunConfig(news=NewsConfig(backbone="tiny"))
    write_config(kept, run / "config.toml")
    done = genre("tune", "ranking", "--data", tmp_path / "room", "--run", run, "--steps", 2, "--trials", 1)
    assert done.returncode == 0, done.stderr
    assert read_config(run / "config.toml") == kept


def test_an_unknown_name_is_answered_with_those_known(tmp_path: Path, genre: Genre):
    (tmp_path / "data" / "train").mkdir(parents=True)
    found = genre(
        "tune", "ranking", "--data", tmp_path / "data", "--run", tmp_path / "run", "--search", "learning"
    )
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "'learning'" in found.stderr and "learning_rate" in found.stderr
