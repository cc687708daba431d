"""Written articles in the histories of readers with few clicks."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from genre_tf.data.articles import Article, ArticleTable, Impression, Split
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.writer_quality import cold_impressions, cold_start, fill_histories, reader_of

TABLE = ArticleTable([Article(f"N{row}", "", "", f"title {row}", "") for row in range(1, 10)])


class Tastes:
    """Scores a candidate by how often it stands in the history, and 1 for row 9 to who reads row 10."""

    def __init__(self, articles=0):
        self.articles = articles

    def __call__(self, examples):
        return [
            np.array(
                [
                    (row == example.history).sum() + (row == 9) * (10 in example.history)
                    for row in example.candidates
                ]
            )
            for example in examples
        ]

    def with_articles(self, extra):
        return Tastes(len(extra) - 1)


@pytest.fixture
def log():
    rows = [((), (8, 9)), ((1, 2), (2, 3)), ((1, 2, 3, 4, 5, 6), (7, 8))]
    impressions = [
        Impression(
            str(number),
            f"U{number}",
            datetime(2026, 1, 1),
            tuple(f"N{row}" for row in history),
            tuple(f"N{row}" for row in candidates),
            (False, True) if number == 0 else (True, False),
        )
        for number, (history, candidates) in enumerate(rows)
    ]
    return ScoredLog(Split("dev", {}, impressions, []), TABLE, None, 50)


def test_written_articles_come_first_and_fill_up_to_five(log):
    empty, two, _ = log.examples()
    titles = {reader_of(empty): ["a", "", "b"], reader_of(two): ["b", "c", "d", "e"]}
    (first, second), written = fill_histories([empty, two], titles, first_row=len(TABLE))
    assert first.history.tolist() == [11, 10]  # the best one stands newest
    assert second.history.tolist() == [13, 12, 11, 1, 2]
    assert [article.title for article in written] == ["a", "b", "c", "d"]


def test_the_report_says_what_written_articles_change(log):
    examples, clicked = log.examples()[:2], log.clicked()[:2]
    report = cold_start(
        examples, clicked, {"tastes": Tastes()}, len(TABLE), lambda readers, n: [["a"]] * len(readers)
    )
    assert (report["impressions"], report["readers"], report["written"]) == (2, 2, 1)
    found = report["tastes"]
    assert (found["auc"], found["auc_filled"]) == (0.75, 1.0)  # the reader without clicks was a coin toss
    assert found["difference"]["difference"] == pytest.approx(0.25)


def test_only_readers_with_few_clicks_are_taken(log):
    assert cold_impressions(log) == ([0, 1], 2)
    assert cold_impressions(log, most=1) == ([0], 2)


def test_impressions_without_a_click_are_not_written_for(log):
    first, *others = log.split.impressions
    log.split.impressions[:] = [replace(first, clicked=(False, False)), *others]
    assert cold_impressions(log) == ([1], 1)
