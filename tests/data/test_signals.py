"""Dwell time, comments and shares: read with every fault told, and made into bounded weights of clicks."""

import math

import numpy as np
import pytest

from genre_tf.config import SignalsConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.data.checking import check_data
from genre_tf.data.click_log import build_examples
from genre_tf.data.counters import Counters
from genre_tf.data.mind import read_split
from genre_tf.data.signals import Signal, click_weight
from genre_tf.errors import InputError

FIRST = "1\tU1\t11/9/2019 9:00:00 AM\tN1 N2\tN3-1 N4-0"
SECOND = "2\tU2\t11/9/2019 10:00:00 AM\tN5 N2 N1\tN3-0 N4-1 N2-1"


@pytest.mark.parametrize(
    ("signal", "weight"),
    [
        (Signal("N1"), 1.0),
        (Signal("N1", dwell=30), 1.0),
        (Signal("N1", dwell=5), math.log(6) / math.log(31)),
        (Signal("N1", dwell=0), 0.25),
        (Signal("N1", dwell=1e300), 4.0),
        (Signal("N1", comments=3), 2.0),
        (Signal("N1", dwell=30, shares=1), 2.0),
        (Signal("N1", dwell=0, shares=1), 1.0),
        (Signal("N1", shares=1e9), 4.0),
    ],
)
def test_a_click_weighs_by_its_dwell_time_comments_and_shares_within_bounds(signal, weight):
    assert click_weight(signal) == pytest.approx(weight)


def test_the_formula_follows_its_settings():
    settings = SignalsConfig(satisfied_seconds=99, least=0.1, most=2, comment_bonus=0, share_bonus=0.5)
    assert click_weight(Signal("N1", dwell=9, comments=5), settings) == pytest.approx(0.5)
    assert click_weight(Signal("N1", dwell=99, shares=1), settings) == pytest.approx(1.5)
    assert click_weight(Signal("N1", dwell=0), settings) == 0.1
    assert click_weight(Signal("N1", dwell=99, shares=15), settings) == 2.0


@pytest.mark.parametrize(
    "wrong",
    [{"least": 0.0}, {"least": 2.0}, {"most": 0.5}, {"satisfied_seconds": 0.0}, {"share_bonus": -1.0}],
)
def test_settings_that_give_no_weight_are_refused(wrong):
    with pytest.raises(InputError, match=r"data\.signals"):
        SignalsConfig(**wrong)


def test_signals_are_read_beside_the_clicks_they_belong_to(write_split):
    rows = [f"{FIRST}\tN1:dwell=35 N3:dwell=120.5,shares=1", f"{SECOND}\t"]
    split = read_split(write_split(behaviors=rows), "train")
    assert split.impressions[0].signals == (Signal("N1", 35.0), Signal("N3", 120.5, 0.0, 1.0))
    assert split.impressions[1].signals == ()
    assert read_split(write_split(behaviors=[FIRST]), "train").impressions[0].signals is None


def test_an_id_may_hold_the_signs_of_the_column(write_split):
    news = ["a:1,b=2\tc\ts\tOne\t", "N2\tc\ts\tTwo\t"]
    row = "1\tU1\t11/9/2019 9:00:00 AM\ta:1,b=2\tN2-1\ta:1,b=2:dwell=7"
    (one,) = read_split(write_split(news=news, behaviors=[row]), "train").impressions
    assert one.signals == (Signal("a:1,b=2", 7.0),)


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        (
            f"{SECOND}\tN1:scroll=3",
            "signals",
            "'N1': unknown signal 'scroll'; known signals: dwell, comments, shares",
        ),
        (f"{SECOND}\tN1:dwell=-3", "signals", "'N1': dwell='-3' is not a finite number of at least 0"),
        (f"{SECOND}\tN1:dwell=nan", "signals", "'nan' is not a finite number"),
        (f"{SECOND}\tN1:shares=1e999", "signals", "'1e999' is not a finite number"),
        (f"{SECOND}\tN1:shares=1_0", "signals", "'1_0' is not a finite number"),
        (f"{SECOND}\tN1:dwell=", "signals", "'' is not a finite number"),
        (f"{SECOND}\tN1:", "signals", "unknown signal ''"),
        (f"{SECOND}\tN1:dwell=3,dwell=4", "signals", "dwell is given twice"),
        (f"{SECOND}\tN1:dwell=3 N1:shares=4", "signals", "'N1' is listed twice"),
        (f"{SECOND}\tN1", "signals", "'N1' is not a signal; write it as N1:dwell=35,shares=1"),
        (f"{SECOND}\tN9:dwell=3", "signals", "'N9' is neither in the row's history nor among its candidates"),
        (SECOND, "columns", "5 received, 6 in the rows before"),
        (f"{SECOND}\t\t", "columns", "7 received, 5 expected"),
    ],
)
def test_a_wrong_signal_is_told_by_file_line_and_field(write_split, row, field, message):
    data = write_split(behaviors=[f"{FIRST}\t", row])
    with pytest.raises(InputError) as caught:
        read_split(data, "train")
    assert str(caught.value).startswith(f"{data / 'train' / 'behaviors.tsv'}:2: {field}: ")
    assert message in str(caught.value)


def test_a_log_without_signals_takes_no_row_that_has_them(write_split):
    with pytest.raises(InputError, match=r":2: columns: 6 received, 5 in the rows before"):
        read_split(write_split(behaviors=[FIRST, f"{SECOND}\tN1:dwell=3"]), "train")


def test_an_unknown_article_is_told_once_and_not_again_by_its_signals(write_split):
    row = "1\tU1\t11/9/2019 9:00:00 AM\tN1 N99\tN3-1 N4-0\tN99:dwell=3 N1:dwell=x"
    faults = check_data(write_split(behaviors=[row])).faults
    assert [fault.field for fault in faults if fault.line == 1] == ["history", "signals"]
    assert "dwell='x'" in faults[1].message


def test_checking_counts_the_articles_with_signals(write_split):
    rows = [f"{FIRST}\tN1:dwell=35 N3:shares=1", f"{SECOND}\tN5:comments=1"]
    assert check_data(write_split(behaviors=rows)).splits[0].signals == 3
    assert check_data(write_split(behaviors=[FIRST])).splits[0].signals == 0


def test_examples_weigh_the_clicks_they_keep_and_nothing_else(write_split):
    # N3 was shown and not clicked, so that its share weighs nothing; of N1 and N2 nothing is known.
    rows = [f"{FIRST}\t", f"{SECOND}\tN5:dwell=0 N3:shares=1 N4:comments=1"]
    split = read_split(write_split(behaviors=rows), "train")
    plain, one = build_examples(split, ArticleTable.of(split), Counters())
    assert plain.history_weights.tolist() == [1, 1] and plain.label_weights.tolist() == [1, 1]
    assert one.history.tolist() == [5, 2, 1] and one.history_weights.tolist() == [0.25, 1, 1]
    assert one.labels.tolist() == [0, 1, 1] and one.label_weights.tolist() == [1, 1.5, 1]
    assert one.history_weights.dtype == one.label_weights.dtype == np.float32
    without_n2 = ArticleTable(article for name, article in split.articles.items() if name != "N2")
    shorter = build_examples(split, without_n2, Counters(), max_history=1)[1]
    assert shorter.history.tolist() == [1] and shorter.history_weights.tolist() == [1]
    assert build_examples(split, without_n2, Counters(), 2)[1].history_weights.tolist() == [0.25, 1]
