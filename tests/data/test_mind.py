"""MIND's two files are read as they stand, plain or gzipped, labelled or not."""

import gzip
from datetime import datetime
from pathlib import Path

import pytest

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.mind import read_split
from genre_tf.data.mind_rows import parse_time
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


@pytest.mark.parametrize("name", ["dev", "", "../nowhere"])
def test_a_missing_split_names_those_that_are_there(write_split, name):
    with pytest.raises(InputError, match=r"has no split .*train"):
        read_split(write_split(), name)


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
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
