"""What a reader has clicked by the end of a log, read from any part of it."""

import gzip
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from genre_tf.data.articles import Impression
from genre_tf.data.lines import FaultPolicy
from genre_tf.data.reader_logs import articles_of, newest_histories, read_histories
from genre_tf.errors import InputError

from .conftest import BEHAVIORS, WriteSplit


def shown(
    hour: int,
    history: Sequence[str],
    candidates: Sequence[str],
    clicked: Sequence[bool] | None,
    user: str = "U1",
) -> Impression:
    flags = None if clicked is None else tuple(clicked)
    time = datetime(2026, 1, 1, hour)
    return Impression(str(hour), user, time, tuple(history), tuple(candidates), flags)


def test_the_clicks_of_the_newest_impression_follow_its_history() -> None:
    log = [shown(5, ["N1", "N2"], ["N3", "N4"], [False, True]), shown(3, ["N1"], ["N2"], [True])]
    assert newest_histories(log) == {"U1": ("N1", "N2", "N4")}


def test_where_histories_stand_still_as_in_mind_every_click_of_the_log_follows_in_order() -> None:
    log = [shown(hour, ["N1"], [news_id, "N0"], [True, False]) for hour, news_id in ((9, "N9"), (7, "N7"))]
    assert newest_histories(log) == {"U1": ("N1", "N7", "N9")}


def test_a_click_that_has_left_a_cut_history_does_not_come_back() -> None:
    histories = (["N1", "N2"], ["N2", "N3"], ["N3", "N4"])
    log = [shown(hour, history, [f"N{hour + 3}"], [True]) for hour, history in enumerate(histories)]
    assert newest_histories(log) == {"U1": ("N3", "N4", "N5")}


def test_an_article_is_listed_once_and_a_log_without_labels_has_no_clicks() -> None:
    again = [shown(hour, ["N1"], ["N1", "N2"], [True, True]) for hour in (1, 2)]
    assert newest_histories(again) == {"U1": ("N1", "N2")}
    assert newest_histories([shown(1, [], ["N1"], None, "U2")]) == {"U2": ()}


def test_a_reader_is_found_in_a_data_set_a_split_and_a_file(write_split: WriteSplit, tmp_path: Path) -> None:
    write_split("dev", behaviors=["9\tU1\t11/12/2019 9:00:00 AM\tN1 N2 N3 N5\tN4-1 N2-0"])
    data = write_split("train")
    assert read_histories(data, "U1") == {"U1": ("N1", "N2", "N3", "N5", "N4")}
    assert read_histories(data / "train", "U1") == {"U1": ("N1", "N2", "N3", "N5")}
    file = tmp_path / "log.tsv.gz"
    file.write_bytes(gzip.compress((data / "train" / "behaviors.tsv").read_bytes()))
    assert read_histories(file, "U2") == {"U2": ("N4",)}
    assert read_histories(file) == {"U1": ("N1", "N2", "N3", "N5"), "U2": ("N4",), "U3": ("N5", "N1")}


def test_ids_without_labels_may_end_like_labels(write_split: WriteSplit) -> None:
    data = write_split(behaviors=["1\tU1\t11/9/2019 9:00:00 AM\tpart-0\tpart-1 storm"])
    assert read_histories(data, "U1") == {"U1": ("part-0",)}


def test_an_unknown_reader_is_refused_with_what_the_log_has(write_split: WriteSplit) -> None:
    with pytest.raises(InputError, match=r"has no reader 'U9'; it has 3 readers, such as U1, U2, U3"):
        read_histories(write_split(), "U9")


def test_faulty_rows_of_this_reader_are_refused_and_those_of_others_do_not_matter(
    write_split: WriteSplit,
) -> None:
    data = write_split(behaviors=[*BEHAVIORS, "5\tU3\tyesterday\t\tN1-1"])
    assert read_histories(data, "U2")
    with pytest.raises(InputError, match=r"behaviors.tsv:5: time: 'yesterday' .* \(`genre check` lists"):
        read_histories(data, "U3")
    assert len(read_histories(data, policy=FaultPolicy.allowing(1))) == 3


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no log"):
        read_histories(tmp_path / "gone", "U1")
    with pytest.raises(InputError, match=r"has no behaviors\.tsv: give a data set"):
        read_histories(tmp_path, "U1")


def test_articles_come_from_the_news_files_of_the_log(write_split: WriteSplit) -> None:
    write_split("dev", news=["N9\tnews\tworld\tNew today\t\t\t[]\t[]"], behaviors=BEHAVIORS[:1])
    data = write_split("train")
    found = articles_of(data, ["N9", "N3", "N404"])
    assert {one.news_id: one.title for one in found.values()} == {"N3": "Soup for winter", "N9": "New today"}
    assert list(articles_of(data / "train" / "behaviors.tsv", ["N3", "N9"])) == ["N3"]
    (data / "train" / "news.tsv").unlink()
    with pytest.raises(InputError, match=r"has no news\.tsv, which has the titles"):
        articles_of(data / "train", ["N3"])
