"""From an untrained run folder to published versions."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from genre_tf.cli.export import parse_age_limit
from genre_tf.config import GenerationConfig, NewsConfig, RunConfig, WritingConfig, write_config
from genre_tf.data.counters import COUNTERS
from genre_tf.data.mind import read_split
from genre_tf.data.prepared import read_articles
from genre_tf.data.preparing import prepare
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation.writer_gate import GateReport, Level
from genre_tf.export import exporting
from genre_tf.export.contract_file import read_contract
from genre_tf.export.exporting import ExportOptions, export_run
from genre_tf.export.pool import read_pool
from genre_tf.export.requests import PARITY_FILE, read_exchanges
from genre_tf.models.checkpoint import (
    load_news_encoder,
    ranker_of,
    save_backbone,
    save_generator_sizes,
    two_tower_of,
)
from genre_tf.models.new_writer import new_generator
from genre_tf.models.news_encoder import Categories
from genre_tf.models.text_model import save_own_weights
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings

OPTIONS = ExportOptions(k=3, retrieve=20, batch_sizes=(1, 2), allow_poor_writer=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exporting") / "news"
    write_newsroom(folder, NewsroomSettings(articles=120, readers=20, impressions=80))
    return folder


@pytest.fixture(scope="module")
def run(data):
    """A run folder as training leaves it, with weights that nobody trained."""
    folder = data.parent / "run"
    writing = GenerationConfig(backbone="new", writing=WritingConfig(samples=3, repetition_penalty=1.1))
    config = RunConfig(news=NewsConfig(backbone="tiny"), generation=writing)
    prepare(data, folder / "prepared")
    write_config(config, folder / "config.toml")
    table = read_articles(folder / "prepared")
    save_backbone("tiny", Categories.of(table.categories, table.subcategories), folder)
    backbone = load_news_encoder(folder, config)
    for stage, model in (
        ("retrieval", two_tower_of(backbone, config)),
        ("ranking", ranker_of(backbone, config)),
    ):
        (folder / stage).mkdir()
        save_own_weights(model, folder / stage / exporting.WEIGHTS_FILE)
    write_generator(folder / "generation", table)
    return folder


def write_generator(folder, table):
    folder.mkdir()
    settings = GenerationConfig(
        backbone="new", vocabulary_size=400, layers=1, heads=2, hidden=16, max_tokens=96
    )
    parts = new_generator(settings, table, folder)
    save_generator_sizes(parts, folder)
    parts.save_weights(folder / exporting.WEIGHTS_FILE)


def test_a_run_becomes_two_verified_servables(run, data, tmp_path):
    said = []
    # Whatever is written is unsafe to this operator.
    (tmp_path / "list.txt").write_text("re:.")
    options = dataclasses.replace(OPTIONS, safety_list=tmp_path / "list.txt")
    published = export_run(run, tmp_path / "models", [data], options, said.append)
    names = [version.relative_to(tmp_path / "models").as_posix() for version, _ in published]
    assert names == ["genre_recommender/1", "genre_generator/1"]
    assert all(checked.passed and checked.version == "1" for _, checked in published)
    assert list((tmp_path / "models").rglob(".*")) == []
    recorded = read_exchanges(published[1][0] / "assets.extra" / PARITY_FILE)
    written = [one.outputs for one in recorded if "safe" in one.outputs]
    assert written and not any(found["safe"][found["text"] != b""].any() for found in written)
    contract = read_contract(published[0][0])
    sizes = dict(contract["sizes"])
    assert sizes.pop("max_age_hours") >= 24  # learned from the clicks of the run's log
    assert sizes == {"max_history": 50, "k": 3, "retrieve": 20, "articles": 120, "index": "exact"}
    assert any("articles may be recommended: up to" in line for line in said)
    assert contract["signatures"]["recommend"]["outputs"]["title"] == {"dtype": "string", "shape": [None, 3]}
    written_with = read_contract(published[1][0])
    assert written_with["sizes"]["texts"] == 3 == len(written[0]["text"][0])
    assert written_with["sizes"]["writing"]["repetition_penalty"] == 1.1
    assert contract["sources"]["trained_on"] and contract["fingerprints"]["code"]


def test_what_does_not_verify_is_not_published(run, tmp_path, monkeypatch, models, catalogue):
    class Failed:
        passed, servable = False, "genre_recommender"

        def all_faults(self):
            return ["op XlaSort in f: XLA op", "another"]

    servable = exporting.Servable("genre_recommender", lambda folder: None, [], {}, {})
    monkeypatch.setattr(exporting, "_servables", lambda *_: [servable])
    monkeypatch.setattr(exporting, "write_version", lambda *_: None)
    monkeypatch.setattr(exporting, "verify_version", lambda *_: Failed())
    with pytest.raises(FailureError, match=r"not published: op XlaSort.*\(and 1 more\)"):
        export_run(run, tmp_path / "models", [], OPTIONS, print)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("allowed", [False, True])
def test_a_poor_writer_is_refused_before_any_work_unless_it_is_allowed(run, tmp_path, monkeypatch, allowed):
    poor = GateReport(50, "", {"topic": Level(-0.1, 0.7, 0.3)})
    written, said = [], []
    monkeypatch.setattr(exporting, "checked_writer", lambda *_: poor)
    monkeypatch.setattr(exporting, "publish_models", lambda models, source, report: written.append(source))
    options = dataclasses.replace(OPTIONS, allow_poor_writer=allowed)
    if allowed:
        export_run(run, tmp_path / "models", [], options, said.append)
        assert written[0].writer is not None
    else:
        with pytest.raises(FailureError, match=r"too poor \(topic\)"):
            export_run(run, tmp_path / "models", [], options, said.append)
        assert not written and "topic -0.10, real 0.70, floor 0.30: too low" in "\n".join(said)


def test_without_a_writer_only_the_recommender_is_exported(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("generation"))
    written, said = [], []
    monkeypatch.setattr(exporting, "publish_models", lambda models, source, report: written.append(source))
    export_run(tmp_path / "run", tmp_path / "models", [], exporting.ExportOptions(), said.append)
    assert written[0].writer is None and "only the recommender is exported" in said


def test_a_run_without_a_stage_is_wrong_input_and_leaves_nothing(run, tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        export_run(tmp_path / "nowhere", tmp_path / "models", [], OPTIONS, print)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        export_run(tmp_path / "empty", tmp_path / "models", [], OPTIONS, print)
    assert not (tmp_path / "models").exists()


def test_a_wrong_safety_list_ends_an_export_at_once(run, tmp_path):
    wrong = tmp_path / "list.txt"
    wrong.write_text("re:(\n")
    said = []
    with pytest.raises(InputError, match=r"list\.txt, line 1"):
        export_run(run, tmp_path / "models", [], ExportOptions(safety_list=wrong), said.append)
    assert said == [] and not (tmp_path / "models").exists()


@pytest.mark.parametrize(("text", "hours"), [(None, None), ("none", None), ("36", 36.0), ("0.5", 0.5)])
def test_an_age_limit_is_hours_or_none(text, hours):
    assert parse_age_limit(text) == hours


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "2019-11-15"])
def test_other_age_limits_are_wrong_input(text):
    with pytest.raises(InputError, match="--max-age-hours must be a number above 0, or none"):
        parse_age_limit(text)


def test_impossible_sizes_are_wrong_input():
    with pytest.raises(InputError, match="retrieve at least k"):
        ExportOptions(k=20, retrieve=10)
    with pytest.raises(InputError, match="k must be at least 1"):
        ExportOptions(k=0)


def test_the_pool_is_every_article_of_the_data_with_the_counts_of_its_logs(run, data):
    table, counters, _ = read_pool(run, [data])
    splits = [read_split(data, name) for name in ("train", "dev")]
    assert set(table.news_ids[1:]) == {news_id for split in splits for news_id in split.articles}
    shown = [news_id for split in splits for entry in split.impressions for news_id in entry.candidates]
    views = [shown.count(news_id) for news_id in table.news_ids]
    np.testing.assert_array_equal(counters[:, 1], views)
    assert (counters[:, 0] <= counters[:, 1]).all() and (counters[0] == 0).all()


def test_views_of_a_log_without_labels_are_not_counted(run, data, tmp_path):
    shutil.copytree(data, tmp_path / "news")
    (tmp_path / "news" / "test").mkdir()
    new = "NEW\tsports\t\tnobody was told who clicked\t\n"
    (tmp_path / "news" / "test" / "news.tsv").write_text(new)
    (tmp_path / "news" / "test" / "behaviors.tsv").write_text("1\tU1\t11/20/2030 9:00:00 AM\t\tNEW\n")
    said = []
    with_test, without = read_pool(run, [tmp_path / "news"], 0, said.append), read_pool(run, [data])
    assert with_test.as_of == without.as_of
    new_row = with_test.table.news_ids.index("NEW")
    assert with_test.counters[new_row].tolist() == [0] * len(COUNTERS)
    np.testing.assert_array_equal(np.delete(with_test.counters, new_row, axis=0), without.counters)
    assert len(said) == 1 and "test/behaviors.tsv has no labels" in said[0]


def test_the_pool_is_the_runs_own_where_no_data_are_given(run):
    table, counters, _ = read_pool(run, [])
    assert table.fingerprint == read_articles(run / "prepared").fingerprint
    assert counters.sum() > 0


def test_articles_without_a_log_keep_the_runs_counts(run, data, tmp_path):
    (tmp_path / "new" / "today").mkdir(parents=True)
    (tmp_path / "new" / "today" / "news.tsv").write_bytes((data / "train" / "news.tsv").read_bytes())
    counters = read_pool(run, [tmp_path / "new"]).counters
    np.testing.assert_array_equal(counters, read_pool(run, []).counters)


def test_a_folder_without_articles_is_wrong_input(run, tmp_path):
    with pytest.raises(InputError, match=r"no split with a news\.tsv"):
        read_pool(run, [tmp_path])
    with pytest.raises(InputError, match="is not a folder; give a data set folder"):
        read_pool(run, [tmp_path / "nowhere"])


def test_reports_of_the_run_go_into_the_contract(tmp_path):
    (tmp_path / "training-ranking.json").write_text(json.dumps({"best": float("nan"), "steps": 3}))
    (tmp_path / "broken.json").write_text("{")
    assert exporting._metrics(tmp_path) == {"training-ranking": {"best": None, "steps": 3}}


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*genre_recommender"):
        export_run(tmp_path, tmp_path / "file" / "models", [], OPTIONS, print)
