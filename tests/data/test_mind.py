"""MIND's two files are read as they stand, plain or gzipped, labelled or not."""

import gzip
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from genre_tf.cli import train
from genre_tf.data.articles import PUBLISHED_UNKNOWN, Article, ArticleTable
from genre_tf.data.checking import check_data
from genre_tf.data.counters import epoch_seconds
from genre_tf.data.mind import first_titles, parse_iso_time, parse_time, read_split
from genre_tf.errors import InputError


def test_articles_and_impressions_are_read_in_the_order_of_the_files(write_split):
    split = read_split(write_split(), "train")
    assert list(split.articles) == ["N1", "N2", "N3", "N4", "N5"]
    assert split.articles["N1"] == Article(
        "N1", "sports", "soccer", "Home side wins late", "A late goal settled it."
    )
    first = split.impressions[0]
    assert (first.impression_id, first.user_id, first.time) == ("1", "U1", datetime(2019, 11, 9, 9))
    assert first.history == ("N1", "N2")
    assert first.candidates == ("N3", "N4")
    assert first.clicked == (True, False)
    assert split.faults == []
    assert split.labelled


def test_the_first_titles_are_read_without_a_check_of_the_rows(write_split):
    rows = ["N1\tnews\tworld\tStorm\t\t\t[]\t[]", "N1\tonly", "", "N2\tnews\tworld\tRain\t\t\t[]\t[]"]
    assert first_titles(write_split(news=rows), "train") == ["Storm", "Rain"]
    assert first_titles(write_split(news=rows), "train", most=2) == ["Storm"]
    assert first_titles(write_split(news=b"\xff\n"), "train") == []
    with pytest.raises(InputError, match="no split 'dev'"):
        first_titles(write_split(), "dev")


def test_a_reader_without_history_is_kept(write_split):
    assert read_split(write_split(), "train").impressions[1].history == ()


def test_a_log_without_labels_has_no_clicks(write_split):
    data = write_split(behaviors=["1\tU1\t11/9/2019 9:00:00 AM\tN1\tN3 N4"])
    split = read_split(data, "train")
    assert split.impressions[0].clicked is None
    assert split.impressions[0].candidates == ("N3", "N4")
    assert not split.labelled


def test_ids_that_end_like_a_label_are_ids_where_the_news_file_knows_them(write_split):
    news = ["a-1\tc\ts\tOne\t", "a-0\tc\ts\tTwo\t"]
    behaviors = ["1\tU1\t11/9/2019 9:00:00 AM\t\ta-1 a-0"]
    assert read_split(write_split(news=news, behaviors=behaviors), "train").impressions[0].clicked is None
    behaviors = ["1\tU1\t11/9/2019 9:00:00 AM\t\ta-1-1 a-0-0"]
    split = read_split(write_split(news=news, behaviors=behaviors), "train")
    assert split.impressions[0].candidates == ("a-1", "a-0")


def test_gzipped_files_read_the_same(write_split):
    data = write_split()
    plain = read_split(data, "train")
    for file in ("news.tsv", "behaviors.tsv"):
        path = data / "train" / file
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read_split(data, "train") == plain


def test_byte_order_mark_and_windows_line_ends_do_not_matter(write_split):
    plain = read_split(write_split(), "train")
    data = write_split("train")
    for file in ("news.tsv", "behaviors.tsv"):
        path = data / "train" / file
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_split(data, "train") == plain


@pytest.mark.parametrize(
    ("cell", "title"),
    {
        "a quote inside": ('"The ""late"" goal"', 'The "late" goal'),
        "a quote at each end": ('"""Late goal"""', '"Late goal"'),
        "only at the ends": ('"Late goal"', '"Late goal"'),
        "a quote that is not doubled": ('"Late" goal, "early" win', '"Late" goal, "early" win'),
        "both": ('"A "late" ""goal"""', '"A "late" ""goal"""'),
    }.values(),
)
def test_a_title_that_a_csv_writer_quoted_is_read_without_its_quoting(write_split, cell, title):
    news = [f"N1\tc\ts\t{cell}\t{cell}", "N2\tc\ts\tTwo\t"]
    behaviors = ["1\tU1\t11/9/2019 9:00:00 AM\t\tN1-1 N2-0"]
    article = read_split(write_split(news=news, behaviors=behaviors), "train").articles["N1"]
    assert (article.title, article.abstract) == (title, title)


def test_a_header_is_no_article(write_split):
    data = write_split(news=["news_id\tcategory\tsubcategory\ttitle\tabstract", "N1\tc\ts\tOne\t"])
    with pytest.raises(InputError, match=r"news.tsv:1: line: is a header, .*; remove the line"):
        read_split(data, "train")


def test_news_without_url_and_entities_is_read(write_split):
    short = ["N1\tsports\tsoccer\tTitle one\tText", "N2\tsports\tsoccer\tTitle two\t"]
    behaviors = ["1\tU1\t11/9/2019 9:00:00 AM\t\tN1-1 N2-0"]
    assert len(read_split(write_split(news=short, behaviors=behaviors), "train").articles) == 2


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("11/9/2019 12:01:13 AM", datetime(2019, 11, 9, 0, 1, 13)),
        ("11/9/2019 12:01:13 PM", datetime(2019, 11, 9, 12, 1, 13)),
        ("01/31/2020 1:59:59 PM", datetime(2020, 1, 31, 13, 59, 59)),
        ("2/29/2019 1:00:00 AM", None),
        ("13/1/2019 1:00:00 AM", None),
        ("1/1/2019 13:00:00 PM", None),
        ("1/1/2019 0:00:00 AM", None),
        ("1/1/2019 1:60:00 AM", None),
        ("2019-11-09T00:01:13", None),
        ("١/1/2019 1:00:00 AM", None),
        ("", None),
    ],
)
def test_time_is_read_as_mind_writes_it(text, time):
    assert parse_time(text) == time


STORM = "N1\tnews\tworld\tStorm nears the coast\tSchools close.\t\t[]\t[]"
ONE_CLICK = ["1\tU1\t11/9/2019 9:00:00 AM\t\tN1-1"]


@pytest.mark.parametrize(
    ("cell", "published"),
    [
        ("", None),
        (" ", None),
        ("2019-11-09", datetime(2019, 11, 9)),
        ("2019-11-09T08:15:30", datetime(2019, 11, 9, 8, 15, 30)),
        ("2019-11-09 08:15", datetime(2019, 11, 9, 8, 15)),
        ("2019-11-09T08:15:30.75Z", datetime(2019, 11, 9, 8, 15, 30)),
        ("2019-11-09T00:15:00+01:00", datetime(2019, 11, 8, 23, 15)),
        ("2999-01-01", datetime(2999, 1, 1)),
    ],
)
def test_a_ninth_column_tells_when_an_article_was_published(write_split, cell, published):
    split = read_split(write_split(news=[f"{STORM}\t{cell}"], behaviors=ONE_CLICK), "train")
    assert split.articles["N1"].published == published
    assert not split.articles["N1"].withdrawn


@pytest.mark.parametrize(("cell", "withdrawn"), [("", False), ("withdrawn", True)])
def test_a_tenth_column_tells_whether_an_article_was_withdrawn(write_split, cell, withdrawn):
    split = read_split(write_split(news=[f"{STORM}\t\t{cell}"], behaviors=ONE_CLICK), "train")
    assert split.articles["N1"].withdrawn is withdrawn
    assert split.articles["N1"].published is None


def test_wrong_times_and_states_are_faults_that_can_be_skipped(write_split):
    bad = [
        ("soon\t", "published", "'soon' is not a time"),
        ("11/9/2019 9:00:00 AM\t", "published", "is not a time; write ISO 8601"),
        ("1573290000\t", "published", "'1573290000' is not a time"),
        ("0001-01-01T00:00:00+10:00\t", "published", "is not a time"),
        ("\tgone", "state", "'gone' is not a state; write withdrawn or leave it empty"),
        ("\tWithdrawn", "state", "'Withdrawn' is not a state"),
    ]
    rows = [f"{STORM.replace('N1', f'N{row}')}\t{cells}" for row, (cells, _, _) in enumerate(bad, start=2)]
    both = f"{STORM.replace('N1', 'N9')}\tnever\tgone"
    data = write_split(news=[f"{STORM}\t2019-11-09\t", *rows, both], behaviors=ONE_CLICK)
    split = read_split(data, "train", max_bad_rows=7)
    assert list(split.articles) == ["N1"]
    expected = [(line, field) for line, (_, field, _) in enumerate(bad, start=2)]
    expected += [(8, "published"), (8, "state")]
    assert [(fault.line, fault.field) for fault in split.faults] == expected
    assert {fault.file for fault in split.faults} == {str(data / "train" / "news.tsv")}
    for fault, (_, _, message) in zip(split.faults, bad, strict=False):
        assert message in fault.message
    assert check_data(data).faults == split.faults
    with pytest.raises(InputError, match=r"news\.tsv:2: published: 'soon' is not a time"):
        read_split(data, "train")


def test_a_file_has_the_added_columns_in_all_rows_or_in_none(write_split):
    news = [STORM, f"{STORM.replace('N1', 'N2')}\t2019-11-09\t"]
    with pytest.raises(InputError, match=r":2: columns: 10 received, 8 in the rows before"):
        read_split(write_split(news=news, behaviors=ONE_CLICK), "train")
    with pytest.raises(InputError, match=r":1: columns: 11 received, 8 expected .*published and state"):
        read_split(write_split(news=[f"{STORM}\t\t\t"], behaviors=ONE_CLICK), "train")


def test_the_table_knows_times_and_states_by_row():
    times = [datetime(2019, 11, 9, 8, 15), None, datetime(1969, 12, 31), datetime(2999, 1, 1)]
    table = ArticleTable(
        Article(f"N{number}", "", "", "Title", "", time, withdrawn=number == 1)
        for number, time in enumerate(times)
    )
    known = [PUBLISHED_UNKNOWN if time is None else epoch_seconds(time) for time in times]
    assert table.published.tolist() == [PUBLISHED_UNKNOWN, *known]
    assert table.withdrawn.tolist() == [False, False, True, False, False]
    assert (table.published.dtype, table.withdrawn.dtype) == (np.int64, np.bool_)
    assert np.iinfo(np.int64).min == PUBLISHED_UNKNOWN


def test_the_fingerprint_of_a_table_changes_with_times_and_states_and_only_with_them():
    texts = ("N1", "news", "world", "Storm nears the coast", "")
    now, later = datetime(2019, 11, 9), datetime(2019, 11, 10)
    kinds = [
        Article(*texts),
        Article(*texts, now),
        Article(*texts, later),
        Article(*texts, None, True),
        Article(*texts, now, True),
    ]
    prints = [ArticleTable([kind]).fingerprint for kind in kinds]
    assert len(set(prints)) == len(kinds)
    # As it was before articles had either, so that folders prepared then are still up to date.
    assert prints[0] == "307b6662efb7275a9a80662cd54470905d788cc4f040da20778be96744df5ace"


def test_a_data_folder_in_a_folder_of_the_same_name_is_named(write_split, tmp_path):
    inner = tmp_path / "mind" / "mind"
    inner.parent.mkdir()
    write_split().rename(inner)

    def read_train(data):
        return read_split(data, "train")

    for read in (read_train, check_data, train.check_data):
        with pytest.raises(InputError, match=re.escape(f"its splits are in {inner}; give that folder")):
            read(inner.parent)


def test_splits_in_folders_of_the_same_name_are_named(write_split, tmp_path):
    data = tmp_path / "mind"
    for name in ("dev", "train"):
        (data / name).mkdir(parents=True)
        (write_split(name) / name).rename(data / name / name)
    with pytest.raises(InputError, match=re.escape(f"({data}/dev/dev, {data}/train/train); move them up")):
        check_data(data)
    with pytest.raises(InputError, match=re.escape(f"move the files of {data}/train/train into it")):
        read_split(data, "train")


@pytest.mark.parametrize("time", ["11/9/2019 9:00:00 AM UTC", "11/9/2019 9:00:00 AM"])
def test_a_time_may_end_in_utc(time):
    assert parse_time(time) == datetime(2019, 11, 9, 9)


@pytest.mark.parametrize(
    "time", ["2019-11-09 09:00:00 UTC", "2019-11-09T09:00:00.25 UTC", "2019-11-09 09:00Z"]
)
def test_an_iso_time_may_end_in_utc(time):
    assert parse_iso_time(time) == datetime(2019, 11, 9, 9)


def test_a_time_with_two_zones_is_none():
    assert parse_iso_time("2019-11-09 09:00:00+01:00 UTC") is None


@pytest.mark.parametrize("name", ["dev", "", "../nowhere"])
def test_a_missing_split_names_those_that_are_there(write_split, name):
    with pytest.raises(InputError, match=r"has no split .*train"):
        read_split(write_split(), name)


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        read_split(tmp_path / "nowhere", "train")


def test_a_missing_file_is_named(write_split):
    data = write_split()
    (data / "train" / "behaviors.tsv").unlink()
    with pytest.raises(InputError, match=r"holds no behaviors\.tsv"):
        read_split(data, "train")


def test_a_plain_file_beside_its_gzipped_copy_is_refused(write_split):
    data = write_split()
    (data / "train" / "news.tsv.gz").write_bytes(b"")
    with pytest.raises(InputError, match="holds both"):
        read_split(data, "train")


def test_the_table_keeps_its_rows_when_more_splits_follow(write_split):
    train = read_split(write_split(), "train")
    dev = [Article("N9", "news", "world", "New", ""), Article("N1", "other", "other", "Other", "")]
    alone, both = ArticleTable.of(train), ArticleTable.of(train, dev)
    assert both.news_ids == [*alone.news_ids, "N9"]
    assert both.titles[both.row("N1")] == "Home side wins late"
    assert both.titles[0] == both.abstracts[0] == both.categories[0] == both.subcategories[0] == ""
    assert both.rows(["N9", "nobody", "N1"]).tolist() == [6, 0, 1]
    assert both.fingerprint != alone.fingerprint
    assert ArticleTable.of(train).fingerprint == alone.fingerprint


def test_the_real_sample_is_read_whole(mind_sample):
    train = read_split(mind_sample, "train")
    assert (len(train.articles), len(train.impressions), len(train.faults)) == (45_910, 4_260, 0)
    dev = read_split(mind_sample, "dev")
    assert (len(dev.articles), len(dev.impressions), len(dev.faults)) == (12_280, 1_370, 0)
    assert len(ArticleTable.of(train, dev)) == 48_915 + 1
