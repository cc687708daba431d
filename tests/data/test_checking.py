"""Checking lists every fault of every split and says what is in it."""

from datetime import datetime

import pytest

from genre_tf.data import lines
from genre_tf.data.checking import check_data
from genre_tf.errors import InputError


def test_a_clean_data_set_passes_with_its_counts(write_split):
    write_split("train")
    report = check_data(write_split("dev"))
    assert report.passed
    assert [split.name for split in report.splits] == ["dev", "train"]
    split = report.splits[1]
    assert (split.articles, split.articles_with_abstract, split.impressions) == (5, 0.6, 4)
    assert (split.readers, split.readers_without_history) == (3, 1)
    assert (split.clicks, split.without_click, split.candidates) == (4, 0, 12)
    assert (split.first, split.last) == (datetime(2019, 11, 9, 9), datetime(2019, 11, 10, 0, 30))


def test_a_reader_is_without_history_only_if_all_of_his_impressions_are(write_split):
    behaviors = [
        "1\tU1\t11/9/2019 9:00:00 AM\t\tN3-1 N4-0",
        "2\tU1\t11/9/2019 9:30:00 AM\tN3\tN3-1 N4-0",
    ]
    assert check_data(write_split(behaviors=behaviors)).splits[0].readers_without_history == 0


def test_a_split_in_which_no_reader_has_a_history_is_warned_of(write_split):
    write_split("train")
    rows = ["1\tU1\t11/9/2019 9:00:00 AM\t\tN3-1 N4-0", "2\tU2\t11/9/2019 9:30:00 AM\t\tN3-1 N4-0"]
    report = check_data(write_split("dev", behaviors=rows))
    assert report.passed
    (warning,) = report.warnings
    assert warning.startswith("dev: no reader has a history (readers: 2)")


def test_impressions_without_a_click_are_counted_and_a_split_of_only_such_is_warned_of(write_split):
    rows = ["1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-0 N4-0", "2\tU1\t11/9/2019 9:30:00 AM\tN1\tN3-1 N4-0"]
    write_split("train", behaviors=rows)
    write_split("dev", behaviors=rows[:1])
    report = check_data(write_split("test", behaviors=["1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3 N4"]))
    assert report.passed
    assert {split.name: split.without_click for split in report.splits} == {"dev": 1, "test": 0, "train": 1}
    (warning,) = report.warnings  # the unlabelled split has no clicks to miss
    assert warning.startswith("dev: no impression has a click (impressions: 1)")


def test_every_fault_is_listed_and_the_allowance_is_per_split(write_split):
    bad = ["1\tU1\tnever\t\tN9-1", "2\tU1\t11/9/2019 9:00:00 AM\t\tN3-1", "x"]
    write_split("train", behaviors=bad)
    data = write_split("dev", behaviors=bad)
    report = check_data(data)
    assert not report.passed
    assert len(report.faults) == report.fault_count == 6
    assert {split.bad_rows for split in report.splits} == {2}
    assert not check_data(data, max_bad_rows=1).passed
    assert check_data(data, max_bad_rows=2).passed


def test_an_unusable_file_fails_whatever_is_allowed(write_split):
    report = check_data(write_split(behaviors=b""), max_bad_rows=1000)
    assert not report.passed
    assert "is empty" in str(report.faults[0])
    assert report.splits[0].unusable_files == 1


def test_a_missing_file_is_a_fault_and_the_other_is_still_checked(write_split):
    data = write_split(news=["N1\tbad"])
    (data / "train" / "behaviors.tsv").unlink()
    messages = [str(fault) for fault in check_data(data).faults]
    assert any("behaviors.tsv: file: is missing" in message for message in messages)
    assert any("news.tsv:1: columns" in message for message in messages)


def test_faults_beyond_the_listing_limit_are_counted(write_split, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LISTED_FAULTS", 10)
    report = check_data(write_split(news=["x"] * 50))
    assert len(report.faults) == 10
    assert report.splits[0].bad_rows == 50 + 4
    assert report.fault_count > 50


@pytest.mark.parametrize("where", ["nowhere", "data/train", "empty", "data/train/news.tsv"])
def test_a_wrong_path_is_refused(write_split, tmp_path, where):
    write_split()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is not a folder|no split in it|give the folder around it"):
        check_data(tmp_path / where)


def test_the_real_samples_are_clean(mind_sample, mind_sample_zh):
    assert check_data(mind_sample).fault_count == 0
    assert check_data(mind_sample_zh).fault_count == 0
