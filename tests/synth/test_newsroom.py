"""The folder that `genre synth` writes: MIND's format, the truth beside it, whole or not at all."""

import json
from dataclasses import replace
from datetime import datetime
from itertools import compress
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from genre_tf.cli.data_sets import synth
from genre_tf.cli.main import app
from genre_tf.data.mind import read_split
from genre_tf.errors import FailureError, InputError
from genre_tf.metrics.ranking import mean_metrics, ranking_metrics
from genre_tf.synth import newsroom
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings

SMALL = NewsroomSettings(articles=400, readers=120, days=3, impressions=900, anonymous_share=0.05, seed=11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "newsroom"
    write_newsroom(out, SMALL)
    return out


def test_our_own_reader_finds_no_fault(folder: Path) -> None:
    train, dev = read_split(folder, "train"), read_split(folder, "dev")
    assert (len(train.impressions), len(dev.impressions)) == (600, 300)
    assert not train.faults and not dev.faults
    assert len(dev.articles) == SMALL.articles > len(train.articles)


def test_rows_have_the_columns_and_times_of_mind(folder: Path) -> None:
    news = (folder / "train" / "news.tsv").read_text(encoding="utf-8").splitlines()
    assert all(len(line.split("\t")) == 8 for line in news)
    log = [line.split("\t") for line in (folder / "train" / "behaviors.tsv").read_text().splitlines()]
    assert all(len(fields) == 5 for fields in log)
    assert [fields[0] for fields in log] == [str(number) for number in range(1, 601)]
    times = [datetime.strptime(fields[2], "%m/%d/%Y %I:%M:%S %p") for fields in log]
    assert times == sorted(times)
    assert not log[0][2].startswith("0") and " 0" not in log[0][2]


def test_train_lies_before_dev(folder: Path) -> None:
    train, dev = read_split(folder, "train"), read_split(folder, "dev")
    assert max(one.time for one in train.impressions) < min(one.time for one in dev.impressions)


def test_histories_grow_with_the_clicks_and_nothing_is_shown_that_was_read(folder: Path) -> None:
    known: dict[str, tuple[str, ...]] = {}
    for split in ("train", "dev"):
        for one in read_split(folder, split).impressions:
            assert one.clicked is not None and any(one.clicked) and not all(one.clicked)
            assert len(set(one.candidates)) == len(one.candidates)
            assert not set(one.candidates) & set(one.history)
            if one.user_id in known and one.history:
                assert one.history == known[one.user_id][-SMALL.history_limit :]
            clicks = [news for news, click in zip(one.candidates, one.clicked, strict=True) if click]
            known[one.user_id] = (*one.history, *clicks)


def test_some_readers_never_have_a_history(folder: Path) -> None:
    histories: dict[str, list[int]] = {}
    for one in read_split(folder, "train").impressions:
        histories.setdefault(one.user_id, []).append(len(one.history))
    without = [user for user, lengths in histories.items() if len(lengths) > 1 and max(lengths) == 0]
    assert 1 <= len(without) <= 0.1 * SMALL.readers


def test_the_truth_is_beside_the_log_and_calibrated(folder: Path) -> None:
    probabilities, clicks = [], []
    truth = (folder / "train" / "truth.tsv").read_text().splitlines()
    for line, one in zip(truth, read_split(folder, "train").impressions, strict=True):
        number, values = line.split("\t")
        assert number == one.impression_id
        assert len(values.split(" ")) == len(one.candidates)
        probabilities += [float(value) for value in values.split(" ")]
        clicks += list(one.clicked or ())
    likely = np.array(probabilities) > 0.3
    assert np.mean(clicks) == pytest.approx(np.mean(probabilities), abs=0.01)
    assert np.mean(np.array(clicks)[likely]) == pytest.approx(
        np.array(probabilities)[likely].mean(), abs=0.04
    )


def test_the_oracle_knows_much_but_not_all(folder: Path) -> None:
    report = json.loads((folder / "newsroom.json").read_text())
    truth = (folder / "dev" / "truth.tsv").read_text().splitlines()
    scores = [np.array(line.split("\t")[1].split(" "), float) for line in truth]
    clicked = [np.array(one.clicked) for one in read_split(folder, "dev").impressions]
    means = mean_metrics(ranking_metrics(scores, clicked)) | {"impressions": len(clicked)}
    assert report["oracle"]["dev"] == pytest.approx(means, abs=1e-4)
    assert report["settings"]["seed"] == SMALL.seed
    for split in ("train", "dev"):
        assert 0.78 < report["oracle"][split]["auc"] < 0.90


def test_example_readers_have_different_tastes_and_a_history(folder: Path) -> None:
    readers = json.loads((folder / "newsroom.json").read_text())["example_readers"]
    assert len(readers) >= 2
    categories = [{name.split("/")[0] for name in reader["interests"]} for reader in readers[:2]]
    assert not categories[0] & categories[1]
    assert all(len(reader["history"]) >= 10 for reader in readers)


def test_the_same_seed_writes_the_same_files_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    write_newsroom(tmp_path / "again", SMALL)
    write_newsroom(tmp_path / "other", NewsroomSettings(articles=400, readers=120, days=3, impressions=900))
    for name in ("news.tsv", "behaviors.tsv", "truth.tsv"):
        first = (folder / "dev" / name).read_bytes()
        assert first == (tmp_path / "again" / "dev" / name).read_bytes()
        assert first != (tmp_path / "other" / "dev" / name).read_bytes()


def test_dwell_times_are_longer_where_the_click_was_likely_and_change_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    write_newsroom(tmp_path, replace(SMALL, signals=True))
    for split in ("train", "dev"):
        for name in ("news.tsv", "truth.tsv"):
            assert (folder / split / name).read_bytes() == (tmp_path / split / name).read_bytes()
    plain, told = read_split(folder, "train").impressions, read_split(tmp_path, "train").impressions
    assert [replace(one, signals=None) for one in told] == plain
    truth = (tmp_path / "train" / "truth.tsv").read_text().splitlines()
    likely, seconds = [], []
    for one, line in zip(told, truth, strict=True):
        clicked = dict(zip(one.candidates, line.split("\t")[1].split(" "), strict=True))
        clicked = {id: float(clicked[id]) for id in compress(one.candidates, one.clicked or ())}
        dwell = {signal.news_id: signal.dwell for signal in one.signals or ()}
        assert dwell.keys() == {*one.history, *clicked}
        likely += clicked.values()
        seconds += [dwell[id] or 0.0 for id in clicked]
    assert 0.3 < np.corrcoef(np.log(likely), np.log(seconds))[0, 1] < 0.9
    reports = [json.loads((each / "newsroom.json").read_text()) for each in (folder, tmp_path)]
    assert reports[0]["oracle"] == reports[1]["oracle"]


def test_a_folder_that_is_there_is_only_replaced_on_request(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="--overwrite"):
        write_newsroom(tmp_path, SMALL)
    with pytest.raises(InputError, match="is not a newsroom"):
        write_newsroom(tmp_path, SMALL, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "keep me"
    (tmp_path / "empty").mkdir()
    write_newsroom(tmp_path / "empty", SMALL)
    write_newsroom(tmp_path / "empty", SMALL, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["dev", "newsroom.json", "train"]


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailureError, match="could not be written"):
        write_newsroom(tmp_path / "file" / "out", SMALL)


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(newsroom, "ranking_metrics", full_disk)
    with pytest.raises(FailureError, match="no space"):
        write_newsroom(tmp_path / "out", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_a_newsroom_and_reports_the_oracle(tmp_path: Path) -> None:
    if not any(command.name == "synth" for command in app.registered_commands):
        app.command("synth")(synth)
        app.command("other")(lambda: None)  # with a second verb typer expects the verb's name
    sizes = ["--articles", "300", "--readers", "50", "--days", "2", "--impressions", "100"]
    answer = CliRunner().invoke(app, ["synth", str(tmp_path / "out"), *sizes, "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["oracle"]["dev"]["impressions"] == 50


def test_titles_with_a_better_wording_are_clicked_more_and_the_truth_names_the_effects(
    tmp_path: Path,
) -> None:
    settings = replace(SMALL, headline=2.0)
    write_newsroom(tmp_path, settings)
    lines = [line.split("\t") for line in (tmp_path / "headlines.tsv").read_text("utf-8").splitlines()]
    effects = {(news_id, text): float(effect) for news_id, effect, text in lines}
    articles = read_split(tmp_path, "dev").articles
    shown, clicked = [], []
    for one in read_split(tmp_path, "train").impressions:
        shown += [effects[id, articles[id].title] for id in one.candidates]
        clicked += one.clicked or ()
    assert np.corrcoef(shown, clicked)[0, 1] > 0.1
