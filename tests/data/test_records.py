"""A prepared folder is whole, repeatable, up to date or refused, and reads back as what went in."""

import json
from datetime import datetime

import numpy as np
import pytest

from genre_tf.config import SignalsConfig
from genre_tf.data import lines, preparing
from genre_tf.data.articles import ArticleTable
from genre_tf.data.click_log import build_examples
from genre_tf.data.counters import Counters
from genre_tf.data.mind import read_split
from genre_tf.data.prepared import load_manifest, read_articles, read_examples, split_by_time
from genre_tf.data.preparing import prepare
from genre_tf.errors import FailureError, InputError


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def as_tuples(examples):
    return [
        (
            one.impression,
            one.user_id,
            one.time_hours,
            one.history.tolist(),
            one.candidates.tolist(),
            one.labels.tolist(),
            one.counters.tolist(),
        )
        for one in examples
    ]


@pytest.fixture
def data(write_split):
    return write_split()


def test_what_was_prepared_is_read_back(data, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "SHARD_IMPRESSIONS", 2)
    out = tmp_path / "new" / "prepared"
    manifest = prepare(data, out, validation_share=0.25).manifest
    split = read_split(data, "train")
    table, counters = ArticleTable.of(split), Counters()
    training, validation = split_by_time(build_examples(split, table, counters), 0.25)
    assert read_articles(out).articles == table.articles
    assert as_tuples(read_examples(out, "train")) == as_tuples(training)
    assert as_tuples(read_examples(out, "validation")) == as_tuples(validation)
    assert Counters.load(out / "counters.npz") == counters
    assert manifest == load_manifest(out)
    assert manifest["splits"]["train"]["impressions"] == 3
    assert manifest["splits"]["validation"]["clicks"] == 1
    assert (manifest["articles"], manifest["bad_rows"]) == (5, 0)
    assert len(manifest["outputs"]) == 2 + 2


def test_publishing_times_and_states_are_read_back(write_split, tmp_path):
    cells = ["2019-11-09T09:00:00+01:00\t", "\twithdrawn", "2999-01-01\twithdrawn", "\t", "\t"]
    news = [f"N{row}\tnews\tworld\tTitle\t\t\t[]\t[]\t{both}" for row, both in enumerate(cells, start=1)]
    data, out = write_split(news=news), tmp_path / "out"
    manifest = prepare(data, out, validation_share=0).manifest
    table = read_articles(out)
    assert [(one.published, one.withdrawn) for one in table.articles] == [
        (None, False),
        (datetime(2019, 11, 9, 8), False),
        (None, True),
        (datetime(2999, 1, 1), True),
        (None, False),
        (None, False),
    ]
    assert table.fingerprint == manifest["article_table"]
    assert table.fingerprint == ArticleTable.of(read_split(data, "train")).fingerprint
    assert not prepare(data, out, validation_share=0).written


def test_types_survive(data, tmp_path):
    prepare(data, tmp_path / "out", validation_share=0.0)
    one = read_examples(tmp_path / "out", "train")[1]
    kinds = [array.dtype for array in (one.history, one.candidates, one.labels, one.counters)]
    assert kinds == [np.int32, np.int32, np.float32, np.float32]
    assert one.history.shape == (0,)
    assert len(read_examples(tmp_path / "out", "validation")) == 0


def test_an_impression_without_a_click_is_an_example_and_counts_as_views(write_split, tmp_path):
    rows = ["1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-0 N4-0", "2\tU2\t11/9/2019 10:00:00 AM\t\tN3-1 N5-0"]
    manifest = prepare(write_split(behaviors=rows), tmp_path / "out", validation_share=0).manifest
    summary = manifest["splits"]["train"]
    assert (summary["impressions"], summary["candidates"], summary["clicks"]) == (2, 4, 1)
    passed_over, clicked = read_examples(tmp_path / "out", "train")
    assert passed_over.labels.tolist() == [0, 0]
    assert clicked.counters[:, :2].tolist() == [[0, 1], [0, 0]]  # no click, one view
    assert Counters.load(tmp_path / "out" / "counters.npz").views == {"N3": 2, "N4": 1, "N5": 1}


BEHAVIORS = [
    "1\tU1\t11/9/2019 9:00:00 AM\tN1 N2\tN3-1 N4-0",
    "2\tU2\t11/9/2019 10:00:00 AM\t\tN3-0 N4-1 N5-0",
    "3\tU1\t11/9/2019 11:00:00 PM\tN1 N2 N3\tN4-0 N5-1 N2-0",
    "4\tU3\t11/10/2019 12:30:00 AM\tN5\tN1-1 N2-0 N3-0 N4-0",
]
WITH_SIGNALS = [
    "1\tU1\t11/9/2019 9:00:00 AM\tN1 N2\tN3-1 N4-0\tN1:dwell=0",
    "2\tU2\t11/9/2019 10:00:00 AM\t\tN3-0 N4-1 N5-0\tN4:shares=1",
    "3\tU1\t11/9/2019 11:00:00 PM\tN1 N2 N3\tN4-0 N5-1 N2-0\t",
]


def test_weights_are_written_where_a_log_has_signals_and_only_there(write_split, tmp_path):
    plain = [row.rpartition("\t")[0] for row in WITH_SIGNALS]
    for name, rows in (("weighted", WITH_SIGNALS), ("plain", plain)):
        data = write_split(behaviors=rows)
        manifest = prepare(data, tmp_path / name, validation_share=0).manifest
        assert manifest.get("signals", False) is (name == "weighted")
        assert manifest["settings"] == {"max_history": 50, "validation_share": 0}
    weighted = read_examples(tmp_path / "weighted", "train")
    assert [one.history_weights.tolist() for one in weighted] == [[0.25, 1], [], [1, 1, 1]]
    assert [one.label_weights.tolist() for one in weighted] == [[1, 1], [1, 2, 1], [1, 1, 1]]
    assert {one.history_weights.dtype for one in weighted} == {np.dtype(np.float32)}
    without = read_examples(tmp_path / "plain", "train")
    assert [one.history_weights for one in without] == [one.label_weights for one in without] == [None] * 3
    assert as_tuples(weighted) == as_tuples(without)


def test_other_settings_of_the_weights_are_other_settings_of_the_folder(write_split, tmp_path):
    data, out = write_split(behaviors=WITH_SIGNALS), tmp_path / "out"
    prepare(data, out, validation_share=0)
    with pytest.raises(InputError, match="--overwrite"):
        prepare(data, out, validation_share=0, signals=SignalsConfig(least=0.5))
    prepare(data, out, validation_share=0, signals=SignalsConfig(least=0.5), overwrite=True)
    assert read_examples(out, "train")[0].history_weights.tolist() == [0.5, 1]


def test_equal_data_and_settings_give_equal_bytes(data, tmp_path):
    for name in ("one", "two"):
        assert prepare(data, tmp_path / name, validation_share=0.25).written
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_folder_that_is_up_to_date_is_left_alone(data, tmp_path):
    out = tmp_path / "out"
    prepare(data, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert not prepare(data, out).written
    assert not prepare(data, out, max_bad_rows=7).written
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}


def test_other_settings_data_or_damage_need_overwrite(data, tmp_path):
    out = tmp_path / "out"
    prepare(data, out)
    with pytest.raises(InputError, match="--overwrite"):
        prepare(data, out, max_history=2)
    assert prepare(data, out, max_history=2, overwrite=True).written
    assert read_examples(out, "train")[2].history.tolist() == [2, 3]
    with (data / "train" / "behaviors.tsv").open("a") as log:
        log.write("9\tU9\t11/10/2019 9:00:00 AM\t\tN3-1 N4-0\n")
    with pytest.raises(InputError, match="--overwrite"):
        prepare(data, out, max_history=2)
    assert prepare(data, out, max_history=2, overwrite=True).manifest["splits"]["train"]["impressions"] == 5
    (out / "counters.npz").write_bytes(b"")
    with pytest.raises(InputError, match="--overwrite"):
        prepare(data, out, max_history=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_skipped_rows_are_counted_and_listed(write_split, tmp_path):
    good = "1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-1 N4-0"
    data = write_split(behaviors=["x", good, "2\tU1\tnever\tN77\tN3-1"])
    manifest = prepare(data, tmp_path / "out", validation_share=0, max_bad_rows=2).manifest
    assert manifest["bad_rows"] == 2
    places = [(fault["file"], fault["line"], fault["field"]) for fault in manifest["faults"]]
    assert places == [
        ("train/behaviors.tsv", 1, "columns"),
        ("train/behaviors.tsv", 3, "time"),
        ("train/behaviors.tsv", 3, "history"),
    ]
    with pytest.raises(InputError, match="--overwrite"):  # 2 bad rows are in it, and only 1 may be
        prepare(data, tmp_path / "out", validation_share=0, max_bad_rows=1)


def test_rows_are_counted_beyond_the_faults_that_are_listed(write_split, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LISTED_FAULTS", 1)
    data = write_split(behaviors=["x", "1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-1 N4-0", "y", "z"])
    manifest = prepare(data, tmp_path / "out", validation_share=0, max_bad_rows=3).manifest
    assert (manifest["bad_rows"], len(manifest["faults"])) == (3, 1)
    split = read_split(data, "train", max_bad_rows=3)
    assert (split.bad_rows, len(split.faults)) == (3, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3 N4"], "no clicks to learn from"),
        (["1\tU1\tnever\tN1\tN3-1 N4-0"], "is not a time"),
        (
            [f"{row}\tU1\t11/9/2019 {row}:00:00 AM\tN1\tN3-{row // 2} N4-0" for row in (1, 2)],
            "none of the 1 impressions of .*train to train on has a click",
        ),
        (["1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-1 N4-0"], "leaves none of the 1 impressions to train on"),
    ],
)
def test_a_log_that_cannot_be_learnt_from_leaves_nothing(write_split, tmp_path, rows, message):
    data = write_split(behaviors=rows)
    with pytest.raises(InputError, match=message):
        prepare(data, tmp_path / "out", validation_share=0.5 if len(rows) > 1 else 0.9)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "settings", [{"max_history": 0}, {"validation_share": 1.0}, {"validation_share": -0.1}]
)
def test_impossible_settings_are_refused(data, tmp_path, settings):
    with pytest.raises(InputError, match=r"must be .*; got"):
        prepare(data, tmp_path / "out", **settings)


def test_what_is_not_ours_is_never_replaced(data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    (tmp_path / "application").mkdir()
    (tmp_path / "application" / "manifest.json").write_text('{"name": "an application", "outputs": []}')
    for name in ("mine", "file", "application"):
        with pytest.raises(InputError, match="not a prepared folder"):
            prepare(data, tmp_path / name, overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_an_empty_folder_is_filled(data, tmp_path):
    (tmp_path / "out").mkdir()
    assert prepare(data, tmp_path / "out").written


def test_a_failure_while_writing_leaves_the_old_folder_and_nothing_else(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(data, out)
    before = files_of(out)

    def full_disk(path, block):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preparing, "write_block", full_disk)
    with pytest.raises(FailureError, match="No space left"):
        prepare(data, out, max_history=2, overwrite=True)
    assert files_of(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_a_damaged_shard_is_named(data, tmp_path):
    out = tmp_path / "out"
    prepare(data, out)
    shard = out / "impressions-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(InputError, match=f"{shard.name} is missing or damaged"):
        read_examples(out, "train")
    shard.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        read_examples(out, "train")


def test_what_is_no_prepared_folder_is_told(data, tmp_path):
    for read in (read_articles, load_manifest):
        with pytest.raises(InputError, match="not a prepared folder"):
            read(tmp_path)
    prepare(data, tmp_path / "out")
    with pytest.raises(InputError, match="must be train or validation; got 'dev'"):
        read_examples(tmp_path / "out", "dev")
    manifest = load_manifest(tmp_path / "out") | {"format": 99}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="another version"):
        read_examples(tmp_path / "out", "train")
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        read_examples(tmp_path / "out", "train")


def test_the_counters_are_those_of_the_end_of_the_whole_log(data, tmp_path):
    prepare(data, tmp_path / "out", validation_share=0.25)
    assert Counters.load(tmp_path / "out" / "counters.npz").views["N4"] == 4
