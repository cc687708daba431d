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
from genre_tf.evaluation.ranking import ranking_metrics
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.scoring import ModelScorer
from genre_tf.evaluation.significance import paired_bootstrap
from genre_tf.evaluation.slices import FEW_CLICKS

Write = Callable[[Sequence[ImpressionExample], int], list[list[str]]]
"""(one example for each reader, n) -> n titles for each, best first, written from interest alone."""


def cold_start(
    log: ScoredLog,
    examples: Sequence[ImpressionExample],
    clicked: Sequence[npt.NDArray[np.bool_]],
    scorers: Mapping[str, ModelScorer],
    write: Write,
) -> dict[str, Any]:
    """Score impressions of readers with few clicks with and without written articles in their histories.

    A history is filled up to `FEW_CLICKS`; written articles stand before the real ones, as the oldest.

    Args:
        log: the split.
        examples: its impressions.
        clicked: per impression bool [candidates].
        scorers: models by name.
        write: the generator.

    Returns:
        "impressions", "readers" and "written" (articles), and for each model "auc" without and
        "auc_filled" with the written articles, and the "difference" with its bootstrap interval. Empty where
        every reader has more clicks.
    """
    few = [at for at, row in enumerate(log.split.impressions) if len(row.history) <= FEW_CLICKS]
    if not few:
        return {}
    cold = [examples[at] for at in few]
    readers = list({reader_of(example): example for example in cold}.values())
    titles = dict(zip(map(reader_of, readers), write(readers, FEW_CLICKS), strict=True))
    filled, written = fill_histories(cold, titles, len(log.table))
    extra = ArticleTable(written)
    labels = [clicked[at] for at in few]
    report: dict[str, Any] = {"impressions": len(few), "readers": len(readers), "written": len(written)}
    for name, scorer in scorers.items():
        before = ranking_metrics(scorer(cold), labels)["auc"]
        after = ranking_metrics(scorer.with_articles(extra)(filled), labels)["auc"]
        difference = paired_bootstrap(after, before)
        report[name] = {
            "auc": float(np.nanmean(before)),
            "auc_filled": float(np.nanmean(after)),
            "difference": asdict(difference) if difference else None,
        }
    return report


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
