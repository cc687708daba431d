"""A run folder: refused input leaves nothing behind, and what is trained keeps its settings."""

import dataclasses
import json
import shutil

import pytest

from genre_tf.backbones.language_models import load_language_model, save_language_model
from genre_tf.config import (
    ContinualConfig,
    DataConfig,
    GenerationConfig,
    NewsConfig,
    RankingConfig,
    RetrievalConfig,
    RunConfig,
    read_config,
    write_config,
)
from genre_tf.data.prepared import load_manifest
from genre_tf.errors import InputError
from genre_tf.training import run_folder
from genre_tf.training.progress import FitResult
from genre_tf.training.run_folder import open_run, train, with_trained, with_writer
from genre_tf.training.stage_data import Tenths
from genre_tf.training.stage_files import run_lock

NEWS = NewsConfig(backbone="tiny")
CONFIG = RunConfig(news=NEWS)
RESULT = FitResult("auc", 0.5, 0.6, 1, 2, False, 1.0, 2.0, 0.0, 0.1, 3)


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "train"
    folder.mkdir()
    rows = (f"N{n}\tsports\ttennis\ttitle number {n}\t\t\t[]\t[]\n" for n in range(1, 9))
    (folder / "news.tsv").write_text("".join(rows))
    line = "{n}\tU{n}\t11/9/2019 1:{n:02}:00 AM\tN1 N2\tN{a}-1 N{b}-0 N7-0\n"
    clicks = (line.format(n=n, a=3 + n % 4, b=3 + (n + 1) % 4) for n in range(1, 41))
    (folder / "behaviors.tsv").write_text("".join(clicks))
    return folder.parent


def _opened(run, data, config=CONFIG):
    with run_lock(run):
        open_run(run, data, config, silent)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"trainable": "last2"}, "'last2'"),
        ({"trainable": "last 9"}, "has 2 layers"),
        ({"backbone": "no/such/folder"}, "no/such/folder"),
        ({"max_title_tokens": 600}, "at most 512 tokens"),
    ],
)
def test_a_refused_news_setting_leaves_no_run_behind(tmp_path, data, wrong, said):
    run = tmp_path / "run"
    config = dataclasses.replace(CONFIG, news=dataclasses.replace(NEWS, **wrong))
    with pytest.raises(InputError, match=said):
        train(("retrieval",), data, run, config, silent)
    assert not run.exists()
    _opened(run, data)
    with pytest.raises(InputError):
        train(("retrieval",), data, run, config, silent)
    assert read_config(run / "config.toml") == CONFIG


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"backbone": "{folder}"}, "vocab_size 7"),
        ({"backbone": "no/such/folder"}, "no/such/folder"),
        ({"trainable": "last 4"}, "has 3 layers; got last 4"),
        ({"trainable": "lora 9999"}, "lora 9999 is too large"),
        ({"vocabulary_size": 100}, "at least 26"),
        ({"heads": 5}, "cannot be divided among 5 heads"),
        ({"max_tokens": 16}, "generation.max_tokens: 16 tokens leave no room"),
    ],
)
def test_a_refused_writer_setting_is_refused_before_anything_is_trained(tmp_path, data, wrong, said):
    save_language_model(load_language_model("tiny"), tmp_path / "gpt2")
    file = tmp_path / "gpt2" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 7}))
    given = {name: tmp_path / "gpt2" if value == "{folder}" else value for name, value in wrong.items()}
    given = {name: str(v) if name == "backbone" else v for name, v in given.items()}
    writer = GenerationConfig(**{"backbone": "new", **given})
    with pytest.raises(InputError, match=said):
        train(
            run_folder.USUAL, data, tmp_path / "run", dataclasses.replace(CONFIG, generation=writer), silent
        )
    assert not (tmp_path / "run").exists()


def test_a_refused_log_leaves_a_folder_as_it_was(tmp_path, data):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    held_out_too_little = dataclasses.replace(CONFIG, data=DataConfig(validation_share=0.0))
    with pytest.raises(InputError, match="validation"):
        train(("retrieval",), data, run, held_out_too_little, silent)
    (tmp_path / "data" / "train" / "behaviors.tsv").mkdir(parents=True)
    (tmp_path / "data" / "train" / "news.tsv").write_text("")
    with pytest.raises(IsADirectoryError):
        train(("retrieval",), tmp_path / "data", run, CONFIG, silent)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_a_wrong_writer_is_refused_before_any_work(tmp_path, data):
    run = tmp_path / "run"
    wrong = dataclasses.replace(CONFIG, generation=GenerationConfig(trainable="last two"))
    with pytest.raises(InputError, match="lora"):
        train(("retrieval", "generation"), data, run, wrong, silent)
    assert not run.exists()


def test_work_is_not_lost_with_a_refusal(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InputError, match="late"), run_lock(run):
        (run / "retrieval").mkdir()
        (run / "retrieval" / "model.weights.h5").write_bytes(b"hours")
        raise InputError("late")
    assert (run / "retrieval" / "model.weights.h5").read_bytes() == b"hours"


def test_what_has_no_settings_yet_is_made_anew(tmp_path, data):
    run = tmp_path / "run"
    _opened(run, data)
    (run / "config.toml").unlink()
    (run / "backbone" / "config.json").write_text("{}")
    config = dataclasses.replace(CONFIG, data=DataConfig(max_history=7))
    _opened(run, data, config)
    assert read_config(run / "config.toml") == config
    assert load_manifest(run / "prepared")["settings"]["max_history"] == 7
    assert "hidden_size" in (run / "backbone" / "config.json").read_text("utf-8")


def test_a_trained_stage_keeps_its_settings_when_another_is_trained(tmp_path, data):
    run, said = tmp_path / "run", []
    _opened(run, data)
    for stage in ("retrieval", "ranking"):
        (run / stage).mkdir()
        (run / stage / "model.weights.h5").write_bytes(b"")
    asked = dataclasses.replace(
        CONFIG,
        retrieval=RetrievalConfig(heads=2),
        ranking=RankingConfig(counters=False),
        generation=GenerationConfig(layers=1),
    )
    found = with_trained(run, ("ranking",), asked, said.append)
    assert found == dataclasses.replace(asked, retrieval=CONFIG.retrieval)
    assert len(said) == 1 and "retrieval is already trained" in said[0]


def test_training_again_forgets_once_and_goes_on_after_a_kill(tmp_path, data, monkeypatch):
    """The second stage is killed at first; the first one, trained again by then, is kept."""
    run, trained = tmp_path / "run", []

    def trainer(stage):
        class Stage:
            def fit(self, files, report):
                trained.append(stage)
                files.folder.mkdir(exist_ok=True)
                files.weights.write_bytes(b"")
                if killed:
                    raise KeyboardInterrupt
                return RESULT

        return lambda *_: Stage()

    monkeypatch.setattr(run_folder, "STAGES", {stage: trainer(stage) for stage in run_folder.STAGES})
    monkeypatch.setattr(run_folder, "load_stage_data", lambda *_: object())
    stages, killed = ("retrieval", "ranking"), False
    train(stages, data, run, CONFIG, silent)
    train(stages, data, run, CONFIG, silent)
    assert trained == ["retrieval", "ranking"]
    killed = True
    with pytest.raises(KeyboardInterrupt):
        train(("ranking",), data, run, CONFIG, silent, again=True)
    killed = False
    train(("ranking",), data, run, CONFIG, silent, again=True)
    assert trained[2:] == ["ranking", "ranking"] and not (run / "again.json").exists()
    (run / "again.json").write_text(json.dumps(_made_from(run, stages)))
    (run / "reports" / "training-ranking.json").unlink()
    train(stages, data, run, CONFIG, silent, again=True)
    assert trained[4:] == ["ranking"], "the first stage was trained again before the kill"
    train(stages, data, run, CONFIG, silent, again=True)
    assert trained[5:] == ["retrieval", "ranking"]


def test_only_what_will_be_trained_is_timed_before(tmp_path, data, monkeypatch):
    timed = []

    class Stage:
        def fit(self, files, report):
            files.folder.mkdir(exist_ok=True)
            files.weights.write_bytes(b"")
            return RESULT

    monkeypatch.setattr(run_folder, "STAGES", dict.fromkeys(run_folder.STAGES, lambda *_: Stage()))
    monkeypatch.setattr(run_folder, "load_stage_data", lambda *_: object())
    monkeypatch.setattr(run_folder, "foretell", lambda stages, *_: timed.append([x.stage for x in stages]))
    run, stages = tmp_path / "run", ("retrieval", "ranking")
    train(stages, data, run, CONFIG, silent)
    assert not timed  # unless it is asked for
    train(stages, data, run, CONFIG, silent, again=True, estimate=True)
    (run / "reports" / "training-retrieval.json").unlink()
    train(stages, data, run, CONFIG, silent, estimate=True)
    assert timed == [["retrieval", "ranking"], ["retrieval"]]


def test_progress_of_a_second_is_not_reported(monkeypatch):
    def said_of():
        said = []
        tenths = Tenths(said.append)
        for done in range(0, 101, 5):
            tenths(done, 100)
        return said

    assert said_of() == []
    monkeypatch.setattr("genre_tf.training.stage_data._BETWEEN_LINES_S", 0.0)
    assert said_of() == [f"  {done} of 100 articles" for done in range(10, 101, 10)]


def _made_from(run, stages):
    return {stage: run_folder.stage_fingerprints(run, CONFIG)[stage] for stage in stages}


def test_skipped_rows_are_told(tmp_path, data):
    shutil.copytree(data, tmp_path / "data")
    with (tmp_path / "data" / "train" / "behaviors.tsv").open("a") as log:
        log.write("half a row\n")
    said = []
    config = dataclasses.replace(CONFIG, data=DataConfig(max_bad_rows=1))
    with run_lock(tmp_path / "run"):
        open_run(tmp_path / "run", tmp_path / "data", config, said.append)
    assert "bad rows skipped: 1; first: train/behaviors.tsv:41: columns" in said[1]


def test_the_writer_of_a_run_suits_its_log_and_that_of_an_earlier_run_stays(tmp_path, data, monkeypatch):
    monkeypatch.setattr("genre_tf.models.new_writer.pretrained_writer", lambda: "package:some/model.gguf")
    assert with_writer(data, CONFIG, silent).generation.backbone == "package:some/model.gguf"
    chinese = tmp_path / "zh" / "train"
    shutil.copytree(data / "train", chinese)
    news = (chinese / "news.tsv").read_text().replace("title number", "暴风雪来临")
    (chinese / "news.tsv").write_text(news)
    said = []
    new = with_writer(chinese.parent, CONFIG, said.append)
    assert (new.generation.backbone, new.generation.trainable) == ("new", "all")
    assert len(said) == 1 and "language of these articles" in said[0]
    (tmp_path / "monday").mkdir()
    write_config(new, tmp_path / "monday" / "config.toml")
    continued = dataclasses.replace(CONFIG, continual=ContinualConfig(from_run=str(tmp_path / "monday")))
    assert with_writer(data, continued, silent).generation.backbone == "new"
    with pytest.raises(InputError, match="no split 'train'"):
        with_writer(tmp_path, CONFIG, silent)
