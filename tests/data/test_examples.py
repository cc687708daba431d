"""Examples keep the newest clicks, every reader, and the order of the log."""

from dataclasses import replace

import pytest

from genre_tf.data.articles import ArticleTable
from genre_tf.data.click_log import build_examples
from genre_tf.data.counters import Counters
from genre_tf.data.mind import read_split
from genre_tf.data.prepared import split_by_time


@pytest.fixture
def split(write_split):
    return read_split(write_split(), "train")


def test_an_example_holds_rows_labels_and_counters(split):
    table = ArticleTable.of(split)
    examples = build_examples(split, table, Counters(), 50)
    third = examples[2]
    assert (third.impression, third.user_id) == (2, "U1")
    assert third.history.tolist() == [1, 2, 3]
    assert third.candidates.tolist() == [4, 5, 2]
    assert third.labels.tolist() == [0, 1, 0]
    assert third.counters[:, :3].tolist() == [[1, 2, 14], [0, 1, 13], [0, 0, 0]]
    assert examples[3].time_hours - third.time_hours == 1.5


@pytest.mark.parametrize(("max_history", "kept"), [(50, [1, 2, 3]), (2, [2, 3]), (1, [3]), (0, [])])
def test_the_newest_clicks_of_a_long_history_are_kept(split, max_history, kept):
    examples = build_examples(split, ArticleTable.of(split), Counters(), max_history)
    assert examples[2].history.tolist() == kept


def test_readers_without_history_are_kept(split):
    examples = build_examples(split, ArticleTable.of(split), Counters())
    assert len(examples) == 4
    assert examples[1].history.shape == (0,)


def test_articles_that_the_table_does_not_know_leave_the_history_and_stay_as_candidates(split):
    table = ArticleTable(article for news_id, article in split.articles.items() if news_id != "N2")
    example = build_examples(split, table, Counters(), 2)[2]
    assert example.history.tolist() == [1, 2]  # N1 N3: dropped before the newest two are counted
    assert example.candidates.tolist() == [3, 4, 0]


def test_a_log_without_labels_has_zeros(split):
    bare = [replace(impression, clicked=None) for impression in split.impressions]
    examples = build_examples(replace(split, impressions=bare), ArticleTable.of(split), Counters())
    assert [example.labels.tolist() for example in examples] == [[0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0, 0]]


def test_validation_is_the_newest_share(split):
    shuffled = replace(split, impressions=[split.impressions[number] for number in (3, 0, 2, 1)])
    examples = build_examples(shuffled, ArticleTable.of(split), Counters())
    training, validation = split_by_time(examples, 0.5)
    assert [example.impression for example in training] == [1, 3]
    assert [example.impression for example in validation] == [0, 2]
    assert [len(part) for part in split_by_time(examples, 0.0)] == [4, 0]


def test_no_validation_example_is_as_old_as_a_training_example(mind_sample):
    split = read_split(mind_sample, "train")
    examples = build_examples(split, ArticleTable.of(split), Counters())
    training, validation = split_by_time(examples, 0.1)
    assert max(e.time_hours for e in training) < min(e.time_hours for e in validation)
    assert len(training) + len(validation) == len(examples) == 4_260
    assert abs(len(validation) - 426) <= 2


def test_one_moment_is_not_divided(write_split):
    rows = [f"{number}\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-1 N4-0" for number in range(4)]
    split = read_split(write_split(behaviors=rows), "train")
    training, validation = split_by_time(build_examples(split, ArticleTable.of(split), Counters()), 0.25)
    assert (len(training), len(validation)) == (0, 4)
