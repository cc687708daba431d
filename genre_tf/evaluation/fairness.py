"""Quality by group: articles by category, and readers by how much they have read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.evaluation.ranking import ranking_metrics
from genre_tf.evaluation.significance import mean_interval

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
    shown = _counts(kinds, len(names))
    clicks = _counts([kind[hit] for kind, hit in zip(kinds, clicked, strict=True)], len(names))
    first = {model: _counts(_first_places(kinds, scores), len(names)) for model, scores in models.items()}
    clicked_in = _clicked_in(kinds, clicked)
    rows = []
    for at in np.argsort(-shown, kind="stable").tolist():
        if not shown[at]:
            break
        rows.append(
            {
                "category": str(names[at]) or "(none)",
                "shown": int(shown[at]),
                "clicked": int(clicks[at]),
                "shown_share": float(shown[at] / shown.sum()),
                "click_share": float(clicks[at] / max(1, clicks.sum())),
                "first_share": {
                    model: float(counts[at] / max(1, counts.sum())) for model, counts in first.items()
                },
                "auc": {
                    model: _auc_of(at, clicked_in.get(at, []), kinds, clicked, scores)
                    for model, scores in models.items()
                },
            }
        )
    return rows


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


def _counts(kinds: Sequence[npt.NDArray[np.int64]], most: int) -> npt.NDArray[np.int64]:
    flat = np.concatenate(kinds) if kinds else np.zeros(0, np.int64)
    return np.bincount(flat, minlength=most)


def _first_places(kinds: Sequence[npt.NDArray[np.int64]], scores: Scores) -> list[npt.NDArray[np.int64]]:
    return [
        kind[np.argsort(-values, kind="stable")[:FIRST_PLACES]]
        for kind, values in zip(kinds, scores, strict=True)
        if len(kind) > FIRST_PLACES
    ]


def _clicked_in(kinds: Sequence[npt.NDArray[np.int64]], clicked: Bools) -> dict[int, list[int]]:
    """Category -> impressions with a click in it; few per category, even with thousands of categories."""
    found: dict[int, list[int]] = {}
    for at, (kind, hit) in enumerate(zip(kinds, clicked, strict=True)):
        for category in set(kind[hit].tolist()):
            found.setdefault(category, []).append(at)
    return found


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
