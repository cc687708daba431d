"""Quality by group: articles by category, and readers by how much they have read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation.significance import mean_interval
from genre_tf.metrics.ranking import ranking_metrics

Bools = Sequence[npt.NDArray[np.bool_]]
Scores = Sequence[npt.NDArray[np.float32]]

FIRST_PLACES = 5
"""How many places a reader sees without scrolling; a category's share of them is its exposure."""

ACTIVITY = (("none", 0, 0), ("1 to 5", 1, 5), ("6 to 20", 6, 20), ("21 to 50", 21, 50), ("over 50", 51, None))
"""Groups of readers by their number of clicks so far."""


def by_category(
    table: ArticleTable,
    examples: Sequence[ImpressionExample],
    clicked: Bools,
    models: Mapping[str, Scores],
) -> list[dict[str, Any]]:
    """Exposure and AUC of every category, most shown first.

    Args:
        table: gives the articles' categories.
        examples: the impressions.
        clicked: per impression bool [candidates].
        models: scores of each model, per impression float32 [candidates].

    Returns:
        For each category "category", "shown" and "clicked" (candidates), "shown_share", "click_share",
        "first_share" (model -> its share of the first `FIRST_PLACES` places, over impressions with more
        candidates than that) and "auc" (model -> `mean_interval` over impressions with a click in the
        category: its clicked articles against all articles that were not clicked).
    """
    names, of_article = np.unique(np.array(table.categories), return_inverse=True)
    kinds = [of_article[example.candidates] for example in examples]

    def counts(rows: Iterable[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        return np.bincount(np.concatenate([np.zeros(0, np.int64), *rows]), minlength=len(names))

    shown = counts(kinds)
    clicks = counts(kind[hit] for kind, hit in zip(kinds, clicked, strict=True))
    first = {
        model: counts(
            kind[np.argsort(-values, kind="stable")[:FIRST_PLACES]]
            for kind, values in zip(kinds, scores, strict=True)
            if len(kind) > FIRST_PLACES
        )
        for model, scores in models.items()
    }
    clicked_in: dict[int, list[int]] = {}  # few impressions each, even with thousands of categories
    for at, (kind, hit) in enumerate(zip(kinds, clicked, strict=True)):
        for category in set(kind[hit].tolist()):
            clicked_in.setdefault(category, []).append(at)
    return [
        {
            "category": str(names[at]) or "(none)",
            "shown": int(shown[at]),
            "clicked": int(clicks[at]),
            "shown_share": float(shown[at] / shown.sum()),
            "click_share": float(clicks[at] / max(1, clicks.sum())),
            "first_share": {
                model: float(places[at] / max(1, places.sum())) for model, places in first.items()
            },
            "auc": {
                model: _auc_of(at, clicked_in.get(at, []), kinds, clicked, scores)
                for model, scores in models.items()
            },
        }
        for at in np.argsort(-shown, kind="stable").tolist()
        if shown[at]
    ]


def by_activity(
    history_clicks: Sequence[int], auc: Mapping[str, npt.NDArray[np.float64]]
) -> list[dict[str, Any]]:
    """AUC for readers by how much they had read.

    Args:
        history_clicks: number of all clicks before each impression.
        auc: model -> float64 [impressions], NaN if undefined.

    Returns:
        For each group of `ACTIVITY` "clicks" (its name), "impressions" and "auc" (model -> `mean_interval`).
    """
    counts = np.array(history_clicks)
    rows = []
    for name, least, most in ACTIVITY:
        mask = (counts >= least) & (counts <= (counts.max(initial=0) if most is None else most))
        rows.append(
            {
                "clicks": name,
                "impressions": int(mask.sum()),
                "auc": {model: mean_interval(values[mask]) for model, values in auc.items()},
            }
        )
    return rows


def _auc_of(
    category: int,
    impressions: Sequence[int],
    kinds: Sequence[npt.NDArray[np.int64]],
    clicked: Bools,
    scores: Scores,
) -> dict[str, Any] | None:
    chosen, hits = [], []
    for at in impressions:
        ours = clicked[at] & (kinds[at] == category)
        kept = ours | ~clicked[at]
        chosen.append(scores[at][kept])
        hits.append(ours[kept])
    return mean_interval(ranking_metrics(chosen, hits)["auc"]) if chosen else None
