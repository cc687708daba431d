"""Training that goes on from a run with a later log: warm, with older examples, and judged by them."""

import hashlib
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from genre_tf.cli.train import train as train_verb
from genre_tf.config import (
    ContinualConfig,
    DataConfig,
    GenerationConfig,
    NewsConfig,
    OptimizerConfig,
    RankingConfig,
    RetrievalConfig,
    RunConfig,
    read_config,
    write_config,
)
from genre_tf.data.mind import read_split
from genre_tf.data.moment_pool import moment
from genre_tf.data.prepared import read_articles
from genre_tf.errors import FailureError, InputError, StoppedError
from genre_tf.models.checkpoint import (
    WEIGHTS_FILE,
    load_news_encoder,
    load_ranker,
    save_generator_sizes,
    two_tower_of,
)
from genre_tf.models.new_writer import new_generator
from genre_tf.models.text_model import save_own_weights
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings
from genre_tf.training.progress import FitResult
from genre_tf.training.run_folder import USUAL, judge, train
from genre_tf.training.stage_data import load_stage_data

STEPS = OptimizerConfig(
    steps=4, batch_size=8, validate_every=2, patience=99, save_every_seconds=0.0, learning_rate=3e-3
)
CONFIG = RunConfig(
    data=DataConfig(max_history=6, validation_share=0.2),
    news=NewsConfig(backbone="tiny", category_dimension=4, max_title_tokens=8),
    retrieval=RetrievalConfig(optimizer=STEPS),
    ranking=RankingConfig(optimizer=STEPS),
    generation=GenerationConfig(
        backbone="new",
        trainable="all",
        precision="float32",
        vocabulary_size=300,
        layers=1,
        heads=2,
        hidden=16,
        max_tokens=48,
        max_examples=60,
        shown_readers=0,
        optimizer=STEPS,
    ),
)


def _quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training log of a newsroom as two data sets, `one` and `two`; the second has a new category."""
    folder = tmp_path_factory.mktemp("days")
    write_newsroom(
        folder / "room", NewsroomSettings(seed=3, articles=300, readers=60, impressions=480, days=4)
    )
    log = (folder / "room" / "train" / "behaviors.tsv").read_text("utf-8").splitlines(keepends=True)
    times = [impression.time for impression in read_split(folder / "room", "train").impressions]
    half = sorted(times)[len(times) // 2]
    for name, wanted in (("one", False), ("two", True)):
        (folder / name / "train").mkdir(parents=True)
        shutil.copy(folder / "room" / "train" / "news.tsv", folder / name / "train")
        rows = [row for row, time in zip(log, times, strict=True) if (time > half) == wanted]
        (folder / name / "train" / "behaviors.tsv").write_text("".join(rows), "utf-8")
    news = folder / "two" / "train" / "news.tsv"
    news.write_text(news.read_text("utf-8").replace("\tsports\t", "\tolympics\t"), "utf-8")
    return folder


@pytest.fixture(scope="module")
def earlier(days: Path) -> Path:
    """A run of the first period with a trained ranker; other stages have random weights, which is quicker."""
    run = days / "earlier"
    train(["ranking"], days / "one", run, replace(CONFIG, seed=5), _quiet)
    keras.utils.set_random_seed(5)
    (run / "retrieval").mkdir()
    towers = two_tower_of(load_news_encoder(run, CONFIG), CONFIG)
    save_own_weights(towers, run / "retrieval" / WEIGHTS_FILE)
    parts = new_generator(
        CONFIG.generation,
        read_articles(run / "prepared"),
        run / "generation",
        seed=5,
    )
    save_generator_sizes(parts, run / "generation")
    parts.save_weights(run / "generation" / WEIGHTS_FILE)
    return run


def _from(earlier: Path, **continual: float) -> RunConfig:
    # Any outcome of four steps is accepted, but where a test is about the judgement.
    settings = ContinualConfig(from_run=str(earlier), **{"margin": 9.0, **continual})  # type: ignore[arg-type]
    return replace(CONFIG, continual=settings)


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _weights(run: Path, stage: str) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(run / stage / "model.weights.h5") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {})
        )
    return found


@pytest.fixture(scope="module")
def later(days: Path, earlier: Path) -> Path:
    """A run of the second period, all three stages; the first one is as it was."""
    before = _files(earlier)
    found = train(USUAL, days / "two", days / "later", _from(earlier), _quiet)
    assert _files(earlier) == before
    for stage in USUAL:
        report = json.loads((days / "later" / "reports" / f"training-{stage}.json").read_text())
        assert report["older_before"] == found[stage].older_before is not None
        assert report["older_after"] == found[stage].older_after
        assert not (days / "later" / stage / "unjudged.model.weights.h5").exists()
    return days / "later"


def test_every_stage_starts_at_the_weights_of_the_earlier_run(earlier: Path, later: Path) -> None:
    for stage in ("retrieval", "ranking"):
        old, new = _weights(earlier, stage), _weights(later, stage)
        assert old.keys() == new.keys()
        # The pool head is fitted anew to each log, and only drawn towards the earlier weights.
        for name in (name for name in old if old[name].ndim and "pool_head" not in name):
            # Four small steps away; a new start would be of other random values altogether.
            np.testing.assert_allclose(new[name], old[name], atol=0.05, err_msg=name)
    old_ranker, new_ranker = load_ranker(earlier), load_ranker(later)
    for measured in ("centre", "interest"):  # on the histories of the first period, and kept
        old, new = (getattr(ranker.news, measured).numpy() for ranker in (old_ranker, new_ranker))
        np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(new_ranker.similarity_mean.numpy(), old_ranker.similarity_mean.numpy())
    old, new = (
        np.concatenate([v.ravel() for v in _weights(run, "generation").values()]) for run in (earlier, later)
    )
    assert np.corrcoef(old, new)[0, 1] > 0.9
    old, new = (json.loads((run / "generation" / "genre_tf.json").read_text()) for run in (earlier, later))
    assert new == old


def test_the_pools_of_a_later_log_know_what_the_earlier_one_counted(earlier: Path, later: Path) -> None:
    data = load_stage_data(later, _from(earlier), _quiet)
    assert 0 < data.replayed < len(data.train)
    for example in (*data.train[: -data.replayed], *data.validation):
        known = example.candidates > 0
        found = data.pool.before(example.candidates[known], moment(example))
        np.testing.assert_allclose(found, example.counters[known], rtol=1e-4, atol=1e-5)
    first = min(data.train[: -data.replayed], key=moment)
    assert data.pool.before(first.candidates, moment(first))[:, 1].any(), "shown in the earlier log"
    for example in data.older:  # of which the counters of the earlier log's end would be the future
        found = data.of_earlier.pool.before(example.candidates, moment(example))
        assert (found[:, :2] <= example.counters[:, :2]).all()


def test_a_category_that_the_earlier_run_did_not_know_is_the_unknown_one(earlier: Path, later: Path) -> None:
    names = load_news_encoder(later, CONFIG).categories
    assert names == load_news_encoder(earlier, CONFIG).categories
    assert "sports" in names.names and names.rows(["olympics"]).tolist() == [0]


@pytest.mark.proof
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    days: Path, earlier: Path, later: Path
) -> None:
    run, config = days / "stopped", _from(earlier)

    def stop(line: str) -> None:
        if line.startswith("step 2/4"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="after step 2 of 4"):
        train(["ranking"], days / "two", run, config, stop)
    assert not (run / "ranking" / "model.weights.h5").exists()  # nobody may use what was not judged
    shutil.copytree(
        later / "retrieval", run / "retrieval"
    )  # the ranker's pool head is fitted to these towers
    said: list[str] = []
    train(["ranking"], days / "two", run, config, said.append)
    assert "resuming after step 2 of 4" in said
    whole = _weights(later, "ranking")
    for name, value in _weights(run, "ranking").items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-5, atol=1e-6, err_msg=name)
    said.clear()
    train(["ranking"], days / "two", run, config, said.append)
    assert any("kept" in line for line in said)
    with pytest.raises(InputError, match=r"continues from .*earlier, but --from is not given"):
        train(["ranking"], days / "two", run, replace(config, continual=ContinualConfig()), _quiet)


def _verb(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(train_verb)
    return CliRunner().invoke(app, list(map(str, arguments)))


def _contrary(days: Path) -> Path:
    """The second period with readers who click all but what they would have clicked."""
    folder = days / "contrary" / "train"
    shutil.copytree(days / "two" / "train", folder)
    log = (folder / "behaviors.tsv").read_text("utf-8")
    swapped = log.replace("-1", "-x").replace("-0", "-1").replace("-x", "-0")
    (folder / "behaviors.tsv").write_text(swapped, "utf-8")
    return days / "contrary"


def test_what_forgets_the_earlier_days_is_refused_until_it_is_accepted(days: Path, earlier: Path) -> None:
    run, data = days / "refused", _contrary(days)
    options = ["--from", earlier, "--data", data, "--run", run, "--replay", 0, "--learning-rate", 0.05]
    found = _verb("ranking", *options, "--steps", 60)
    assert not found.stdout
    assert isinstance(found.exception, FailureError)
    for words in ("ranking is rejected", "--margin allows 0.0100", "--replay", "--margin"):
        assert words in str(found.exception)
    with pytest.raises(InputError, match="no trained ranking stage"):
        load_ranker(run)
    report = json.loads((run / "reports" / "training-ranking.json").read_text())
    assert report["refused"] and report["older_after"] < report["older_before"] - 0.01
    assert report["best"] > report["before"]  # the new days alone would have let it pass
    settings = read_config(run / "config.toml")
    assert settings.continual == ContinualConfig(from_run=str(earlier), replay_share=0.0)
    accepted = _verb("ranking", *options, "--steps", 60, "--margin", 0.9)
    assert "resuming after step 60 of 60" in accepted.stderr and "\nstep " not in accepted.stderr
    assert accepted.exit_code == 0 and "earlier log" in accepted.stdout
    load_ranker(run)


def test_a_perplexity_may_grow_by_a_share_and_an_auc_may_lose_points() -> None:
    def refused(metric: str, before: float, after: float) -> bool:
        came_to = FitResult(
            metric, 0.0, 0.0, 1, 1, False, 1.0, 1.0, 0.0, 1.0, 1, older_before=before, older_after=after
        )
        try:
            judge("ranking", came_to, RunConfig())
        except FailureError:
            return True
        return False

    assert refused("auc_mean", 0.7, 0.689) and refused("auc_mean", 0.7, math.nan)
    assert not refused("auc_mean", 0.7, 0.691) and not refused("auc_mean", 0.7, 0.9)
    assert refused("perplexity", 100.0, 101.1) and refused("perplexity", 100.0, math.inf)
    assert not refused("perplexity", 100.0, 100.9) and not refused("perplexity", 100.0, 50.0)


def test_what_does_not_fit_is_refused_before_anything_is_written(days: Path, earlier: Path) -> None:
    def refused(said: str, config: RunConfig, run: Path = days / "none", data: str = "two") -> None:
        with pytest.raises(InputError, match=said):
            train(["ranking"], days / data, run, config, _quiet)

    config = _from(earlier)
    refused("not a run folder", _from(days / "gone"))
    refused("both", config, earlier)
    refused("not a run folder", _from(days / "room"))
    (days / "empty").mkdir()
    write_config(CONFIG, days / "empty" / "config.toml")
    refused("no trained ranking stage", _from(days / "empty"))
    wider = replace(config.news, category_dimension=8, trainable="last 1")
    refused(
        "news.trainable was 'none' and is now 'last 1'; news.category_dimension was 4 and is now 8",
        replace(config, news=wider),
    )
    alone = _verb("ranking", "--data", days / "two", "--run", days / "none", "--replay", 0.3)
    assert isinstance(alone.exception, InputError) and "need --from" in str(alone.exception)
    assert not (days / "none").exists()
    refused("begins at .*ends at", config, data="one")
    assert not (days / "none" / "prepared").exists()
