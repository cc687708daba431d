"""Cold start: what written articles in the history of readers with few clicks do to their ranking.

Source: the idea of GENRE (Liu et al., "ONCE: Boosting Content-based Recommendation with Both Open- and
Closed-source Large Language Models", WSDM 2024), which writes news for readers of at most five clicks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.examples import ImpressionExample
from genre_tf.data.text_examples import history_titles
from genre_tf.evaluation.ranking import ranking_metrics
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.scoring import ModelScorer
from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.evaluation.significance import paired_bootstrap
from genre_tf.evaluation.slices import FEW_CLICKS

# Written for 5 times; of more readers the interval would be narrower than any difference that matters.
MOST_IMPRESSIONS = 1000

Write = Callable[[Sequence[ImpressionExample], int], list[list[str]]]
"""(one example for each reader, n) -> n titles for each, best first, written from interest alone."""


def cold_impressions(log: ScoredLog, most: int = MOST_IMPRESSIONS) -> tuple[list[int], int]:
    """Impressions whose reader has at most `FEW_CLICKS`.

    Args:
        log: the split.
        most: of more, so many are evenly picked.

    Returns:
        Their places in the split, and how many there are.
    """
    few = [at for at, row in enumerate(log.split.impressions) if len(row.history) <= FEW_CLICKS]
    picked = [few[at * len(few) // most] for at in range(most)] if len(few) > most else few
    return picked, len(few)


def cold_start(
    examples: Sequence[ImpressionExample],
    clicked: Sequence[npt.NDArray[np.bool_]],
    scorers: Mapping[str, ModelScorer],
    articles: int,
    write: Write,
) -> dict[str, Any]:
    """Score impressions of readers with few clicks with and without written articles in their histories.

    A history is filled up to `FEW_CLICKS`; written articles stand before the real ones, as the oldest.

    Args:
        examples: impressions of `cold_impressions`; one at least.
        clicked: of each, bool [candidates].
        scorers: models by name.
        articles: rows of the table that they know.
        write: the generator.

    Returns:
        "impressions", "readers" and "written" (articles), and for each model "auc" without and
        "auc_filled" with the written articles, and their "difference" with its 95% bootstrap interval over
        impressions ("low" to "high").
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
    """Titles written from a reader's titles alone, as it is served; unsafe ones are left out."""

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
    """Put written articles before the clicks of readers who have few.

    Args:
        examples: impressions of such readers.
        titles: written for each reader, best first, by `reader_of`.
        first_row: row of the first written article, behind all others of the table.

    Returns:
        The examples with histories of at most `FEW_CLICKS`, and the written articles, each once.
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
    """Who a text is written for: a reader whose clicks change between impressions is another one."""
    return (example.user_id, *example.history.tolist())
