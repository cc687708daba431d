"""Cold start: how written articles, added to the histories of readers with few clicks, change their ranking.

Source: the idea of GENRE (Liu et al., "ONCE: Boosting Content-based Recommendation with Both Open- and
Closed-source Large Language Models", WSDM 2024), which writes news for readers with at most five clicks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.text_examples import history_titles
from genre_tf.evaluation.scored_log import FEW_CLICKS, ScoredLog, evenly
from genre_tf.evaluation.scoring import ModelScorer
from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.evaluation.significance import paired_bootstrap
from genre_tf.metrics.ranking import ranking_metrics

# Writing for them costs 5 texts each; more readers would only make the interval narrower than matters.
MOST_IMPRESSIONS = 1000

Write = Callable[[Sequence[ImpressionExample], int], list[list[str]]]
"""(one example per reader, n) -> n titles for each, best first, written from interest alone."""


def cold_impressions(log: ScoredLog, most: int = MOST_IMPRESSIONS) -> tuple[list[int], int]:
    """Impressions with an AUC (a click, and an article that was not clicked) of readers with few clicks.

    Args:
        log: the split.
        most: maximum number; if there are more, they are picked evenly.

    Returns:
        Their positions in the split, and their total number.
    """
    few = [
        at
        for at, row in enumerate(log.split.impressions)
        if len(row.history) <= FEW_CLICKS and len({*(row.clicked or ())}) == 2
    ]
    return evenly(few, most), len(few)


def cold_start(
    examples: Sequence[ImpressionExample],
    clicked: Sequence[npt.NDArray[np.bool_]],
    scorers: Mapping[str, ModelScorer],
    articles: int,
    write: Write,
) -> dict[str, Any]:
    """Score impressions of readers with few clicks, with and without written articles in their histories.

    A history is filled up to `FEW_CLICKS`; written articles come before the real ones, as if they were older.

    Args:
        examples: impressions from `cold_impressions`; at least one.
        clicked: for each impression, bool [candidates].
        scorers: models by name.
        articles: number of table rows that the models know.
        write: writes the titles.

    Returns:
        "impressions", "readers" and "written" (articles); for each model "auc" without and "auc_filled" with
        the written articles, and their "difference" with its 95% bootstrap interval over impressions ("low"
        to "high").
    """
    readers = list({reader_of(example): example for example in examples}.values())
    titles = dict(zip(map(reader_of, readers), write(readers, FEW_CLICKS), strict=True))
    filled, written = fill_histories(examples, titles, articles)
    extra = ArticleTable(written)
    report: dict[str, Any] = {"impressions": len(examples), "readers": len(readers), "written": len(written)}
    for name, scorer in scorers.items():
        before = ranking_metrics(scorer(examples), clicked)["auc"]
        after = ranking_metrics(scorer.with_articles(extra)(filled), clicked)["auc"]
        difference = paired_bootstrap(after, before)
        report[name] = {
            "auc": float(np.nanmean(before)),
            "auc_filled": float(np.nanmean(after)),
            "difference": asdict(difference) if difference else None,
        }
    return report


def from_interest(writer: ServedWriter, table: ArticleTable) -> Write:
    """Titles written from a reader's titles alone, as the server does; unsafe titles are left out."""

    def write(readers: Sequence[ImpressionExample], count: int) -> list[list[str]]:
        histories = [history_titles(table, example.history) for example in readers]
        _, served = writer(histories, [""] * len(readers), list(range(len(readers))))
        return [
            [text.decode() for text, fit in zip(*row, strict=True) if fit][:count]
            for row in zip(served.text, served.safe, strict=True)
        ]

    return write


def fill_histories(
    examples: Sequence[ImpressionExample], titles: Mapping[tuple[Any, ...], Sequence[str]], first_row: int
) -> tuple[list[ImpressionExample], list[Article]]:
    """Put written articles before the clicks of readers with few clicks.

    Args:
        examples: impressions of these readers.
        titles: titles written for each reader (see `reader_of`), best first.
        first_row: row of the first written article, after all others in the table.

    Returns:
        The examples with histories of at most `FEW_CLICKS`, and the written articles without duplicates.
    """
    rows: dict[str, int] = {}
    filled = []
    for example in examples:
        room = max(FEW_CLICKS - len(example.history), 0)
        chosen = [title for title in titles[reader_of(example)] if title][:room]
        new = [rows.setdefault(title, first_row + len(rows)) for title in chosen]
        history = np.concatenate([np.array(new[::-1], np.int32), example.history])
        filled.append(replace(example, history=history, history_weights=None))
    return filled, [Article(f"written-{row}", "", "", title, "") for title, row in rows.items()]


def reader_of(example: ImpressionExample) -> tuple[Any, ...]:
    """The reader that a text is written for; after further clicks they count as another reader."""
    return (example.user_id, *example.history.tolist())
