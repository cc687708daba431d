"""Texts written for readers, beside those for others, and how they are shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation.personalisation import (
    ReaderOfArticle,
    as_markdown,
    compared,
    personal_metrics,
    readers_of_articles,
    shown_samples,
)
from genre_tf.generation.writer import Written
from genre_tf.reporting.tables import report_tables

READERS = [ReaderOfArticle((f"title {at}",), f"source {at}", f"real {at}", "clicked") for at in range(6)]


class Scripted:
    """Writes "READER: SOURCE" in two samples, the second of which is served; likes its own reader's texts."""

    samples = 2

    def __call__(
        self, readers: Sequence[Sequence[str]], sources: Sequence[str], seeds: Sequence[int]
    ) -> tuple[Written, Written]:
        assert seeds == list(range(len(readers)))
        text = [
            [f"{titles[0]}: {source}", f"{titles[0]}: {source} now"]
            for titles, source in zip(readers, sources, strict=True)
        ]
        ones = np.ones((len(text), 2), np.float32)
        safe = np.tile([[True, False]], (len(text), 1))
        columns = [
            np.array(text).astype("S"),
            ones,
            -ones,
            ones,
            safe,
            np.full((len(text), 2), b"Rome"),
            ones,
        ]
        return Written(*columns), Written(*(column[:, ::-1] for column in columns))

    def chosen_by(self, model: Any, readers: Sequence[Sequence[str]], drawn: Written) -> Written:
        """In the served order."""
        return Written(*(column[:, ::-1] for column in drawn))

    def click_model(self, readers: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array(
            [
                [
                    0.1 * (titles[0] in text) + 0.2 * ("now" in text) + 0.01 * ("clicked" in text)
                    for text in row
                ]
                for titles, row in zip(readers, texts, strict=True)
            ],
            np.float32,
        )


def test_each_text_stands_beside_one_for_another_reader_of_the_same_source() -> None:
    metrics, samples = personal_metrics(Scripted(), READERS, ["a random title"])
    assert metrics["interest"]["written"] == pytest.approx(0.3)
    assert metrics["interest"]["for_other_reader"] == pytest.approx(0.2)
    assert metrics["interest"]["first_sample"] == pytest.approx(0.1)
    assert metrics["interest"]["first_sample_for_other_reader"] == 0
    assert metrics["interest"]["clicked_title"] == pytest.approx(0.01)
    assert metrics["interest"]["random_title"] == 0
    assert metrics["over_other_reader"] == {
        "pairs": 6,
        "share_above": 1.0,
        "share_above_low": 1.0,
        "share_above_high": 1.0,
        "share_equal": 0.0,
        "win_rate": 1.0,
        "low": 1.0,
        "high": 1.0,
    }
    assert metrics["best_of_samples_margin"]["mean"] == pytest.approx(0.2)
    assert (metrics["unsafe_rate"], metrics["unsafe_first"]) == (0.5, 1.0)
    for reader, sample in zip(READERS, samples, strict=True):
        assert sample["written"][0]["text"] == f"{reader.titles[0]}: {reader.source} now"
        other = sample["for_other_reader"]["text"]
        assert other.endswith(f": {reader.source} now") and reader.titles[0] not in other


def test_people_read_the_comparisons_in_a_table() -> None:
    metrics, _ = personal_metrics(Scripted(), READERS, ["a random title"])
    generation = {"headlines": 0, "clicked_titles": 0, "personal": metrics}
    nothing = {"split": "dev", "impressions": 0, "slices": {}, "models": {}, "baselines": {}, "before": {}}
    table = report_tables({**nothing, "generation": generation})["readers"]
    assert table.headings[:5] == ["interest", "above", "low", "high", "equal"]
    assert [text for text, _ in dict(table.lines())["for another reader"][:5]] == [
        "0.200", "1.000", "1.000", "1.000", "0.000",
    ]  # fmt: skip


def test_a_judge_that_chose_nothing_compares_the_texts_and_all_is_told_in_one_table() -> None:
    def judge(readers: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> np.ndarray:
        rows = zip(readers, texts, strict=True)
        return np.array([[float(titles[0] in text) for text in row] for titles, row in rows])

    models: Any = {"chooser": Scripted().click_model, "judge": judge}
    told = {"fluency": -3.0, "grounding": 0.9}
    writer: Any = Scripted()
    metrics, _ = personal_metrics(
        writer, READERS, ["x"], **models, measure=lambda texts, sources: {**told, "count": len(texts)}
    )
    rates = metrics["win_rates"]
    assert set(rates) == {"first_sample", "chosen", "written"}
    assert all(set(found) == {"served", "chooser", "judge"} for found in rates.values())
    assert rates["chosen"]["chooser"]["win_rate"] == rates["chosen"]["judge"]["win_rate"] == 1.0
    assert metrics["texts"]["chosen"]["count"] == metrics["texts"]["real_title"]["count"] == 6
    assert metrics["texts"]["real_title"]["rouge1"] == 1.0 > metrics["texts"]["chosen"]["rouge1"]
    nothing = {"split": "dev", "impressions": 0, "slices": {}, "models": {}, "baselines": {}, "before": {}}
    generation = {"headlines": 0, "clicked_titles": 0, "personal": metrics}
    table = report_tables({**nothing, "generation": generation})["writer"]
    lines = dict(table.lines())
    assert list(lines) == ["first sample", "chosen of 2 by the chooser", "served, of 2", "real title"]
    assert [text for text, _ in lines["first sample"][:6]] == ["1.000"] * 5 + ["-3.000"]
    assert [text for text, _ in lines["real title"][:6]] == [""] * 5 + ["-3.000"]
    assert lines["first sample"][0][1] == "1.000 to 1.000"


def test_equal_texts_are_half_a_win() -> None:
    ours, theirs = np.array([0.3, 0.2, 0.2, 0.1], np.float32), np.array([0.2, 0.3, 0.2, 0.09], np.float32)
    found = compared(ours, theirs, np.array([False, False, False, True]))
    assert (found["share_above"], found["share_equal"], found["win_rate"]) == (0.25, 0.5, 0.5)
    assert found["share_above_low"] == 0 < 0.25 < found["share_above_high"]
    assert found["low"] < 0.5 < found["high"]


def example(user: str, history: list[int], candidates: list[int], labels: list[int]) -> ImpressionExample:
    rows = np.array(candidates, np.int32)
    return ImpressionExample(
        0,
        user,
        0.0,
        np.array(history, np.int32),
        rows,
        np.array(labels, np.float32),
        np.zeros((len(rows), 3)),
    )


def test_each_reader_counts_once_with_an_unlearned_article_that_says_enough() -> None:
    table = ArticleTable([Article(f"N{at}", "", "", f"Title  {at}", "word " * at) for at in range(1, 6)])
    examples = [
        example("no history", [], [5], [1]),
        example("clicked a new one", [1, 2], [2, 3, 5], [1, 1, 0]),
        example("clicked a new one", [1], [5], [1]),
        example("was shown a new one", [3], [5, 1], [0, 1]),
        example("saw none", [3], [4], [1]),
        example("did not click", [1], [5], [0]),
    ]
    found = readers_of_articles(table, examples, {"N4"}, 10, least_words=3)
    assert [(reader.titles, reader.title, reader.clicked) for reader in found] == [
        (("Title 1", "Title 2"), "Title  3", "Title  2"),
        (("Title 3",), "Title  5", "Title  1"),
        (("Title 3",), "Title  3", "Title  4"),  # one of the new articles, N3 and N5
    ]
    assert [reader.clicked for reader in readers_of_articles(table, examples, {"N4"}, 1, 3)] == ["Title  2"]
    assert readers_of_articles(table, examples, {"N3", "N4", "N5"}, 10, least_words=3) == []
    named = readers_of_articles(table, examples, {"N4"}, 2, 3, first=["saw none"])
    assert [reader.reader for reader in named] == ["saw none", "clicked a new one"]


def test_a_sample_shows_titles_scores_and_unsupported_claims() -> None:
    _, samples = personal_metrics(Scripted(), READERS, ["a random title"])
    text = as_markdown(samples[0] | {"source": "<b>source\n0</b>"})
    for part in (
        "## real 0",
        "\\<b\\>source 0",
        "- title 0\n",
        "not in the source: Rome; unsafe",
        "interest 1.0000",
    ):
        assert part in text
    assert len(shown_samples(samples * 10)) == 20
    many = [{"reader": f"U{number}"} for number in range(60)]
    shown = [sample["reader"] for sample in shown_samples(many, ["U59", "U31"])]
    assert shown[:3] == ["U31", "U59", "U0"] and len(set(shown)) == 20
