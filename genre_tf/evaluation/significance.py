"""Means by slice, category and activity with intervals, and whether a difference is more than chance."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.metrics.ranking import mean_metrics, ranking_metrics

Measured = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""Per scorer, per metric, float64 [impressions]."""

Slices = Mapping[str, npt.NDArray[np.bool_]]
"""Per slice, bool [impressions]: the impressions that belong to it."""

Bools = Sequence[npt.NDArray[np.bool_]]
Scores = Sequence[npt.NDArray[np.float32]]

FIRST_PLACES = 5
"""How many places a reader sees without scrolling; a category's share of them is its exposure."""

ACTIVITY = (("none", 0, 0), ("1 to 5", 1, 5), ("6 to 20", 6, 20), ("21 to 50", 21, 50), ("over 50", 51, None))
"""Groups of readers by their number of clicks so far."""

_SAMPLES = 2000  # the ends of a 95% interval then vary by about 3% of its width between seeds
_ENDS = ((1 - 0.95) / 2, (1 + 0.95) / 2)
# Draws in memory at a time: 2**22 int32 row numbers are 16 MB.
_BLOCK_DRAWS = 2**22


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference of means with its bootstrap interval, in the unit of the metric."""

    difference: float
    low: float
    high: float
    probability_not_better: float
    impressions: int


def paired_bootstrap(ours: npt.NDArray[np.floating], theirs: npt.NDArray[np.floating]) -> Difference | None:
    """The mean of `ours - theirs` over the same impressions, with its 95% percentile interval.

    Impressions are drawn with replacement, with both models' values together (Koehn, "Statistical
    Significance Tests for Machine Translation Evaluation", 2004).

    Args:
        ours: float [impressions], a metric per impression; NaN where undefined.
        theirs: the same of another model. None is returned if no impression has both.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape} differ; they must be equal")
    gain = np.asarray(ours, np.float64) - theirs
    gain = gain[~np.isnan(gain)]
    if not len(gain):
        return None
    means = _resampled_means(gain[:, None])[:, 0]
    low, high = np.quantile(means, _ENDS)
    return Difference(
        difference=float(gain.mean()),
        low=float(low),
        high=float(high),
        probability_not_better=float((means <= 0).mean()),
        impressions=len(gain),
    )


def bootstrap_intervals(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """95% percentile intervals for the means of many metrics, from the same draws of impressions.

    Args:
        values: float [impressions, metrics]; NaN where undefined: such an impression is not drawn for that
            metric.

    Returns:
        float64 [metrics, 2], the ends; NaN if no impression has a value.
    """
    ends = np.full((values.shape[1], 2), np.nan)
    # Metrics that are undefined for the same impressions are drawn together, as one matrix product.
    patterns, group = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        columns = np.flatnonzero(group.reshape(-1) == number)
        if rows.any():
            means = _resampled_means(values[rows][:, columns].astype(np.float64))
            ends[columns] = np.quantile(means, _ENDS, axis=0).T
    return ends


def _resampled_means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of bootstrap samples, the same at each call: [impressions, metrics] -> [samples, metrics]."""
    generator, count, means = np.random.default_rng(0), len(values), []
    per_block = max(1, _BLOCK_DRAWS // count)
    for start in range(0, _SAMPLES, per_block):
        samples = min(per_block, _SAMPLES - start)
        draws = generator.integers(count, size=(samples, count), dtype=np.int32)
        cells = draws + count * np.arange(samples)[:, None]
        times = np.bincount(cells.reshape(-1), minlength=draws.size).reshape(draws.shape)
        means.append(times @ values / count)  # the weight of an impression is how often it was drawn
    return np.concatenate(means)


def mean_interval(values: npt.NDArray[np.floating]) -> dict[str, Any] | None:
    """A mean of fractions with its 95% interval, 1.96 standard errors on either side; NaN is left out.

    Impressions are treated as independent; those of one reader are not quite, so the interval is slightly
    narrow.

    Returns:
        "mean", "low", "high" (None if a single impression gives no spread), "impressions"; None if no value
        is defined.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    mean = float(known.mean())
    half = 1.96 * float(known.std(ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else None
    return {
        "mean": mean,
        "low": None if half is None else max(0.0, mean - half),
        "high": None if half is None else min(1.0, mean + half),
        "impressions": len(known),
    }


def sliced(measured: Measured, slices: Slices) -> dict[str, dict[str, dict[str, float | None]]]:
    """Means: scorer > slice > metric, as fractions; None if a slice has nothing to measure."""
    return {
        name: {part: mean_metrics(metrics, mask) for part, mask in slices.items()}
        for name, metrics in measured.items()
    }


def compared(models: Measured, before: Measured, baselines: Measured) -> dict[str, dict[str, Any]]:
    """Differences in AUC of each model from the best baseline and from its state before training.

    Returns:
        "ours over theirs" > the fields of `Difference`.
    """
    pairs = []
    rivals = {name: mean_metrics(metrics)["auc"] for name, metrics in baselines.items()}
    best = max(rivals, key=lambda name: rivals[name] or 0.0) if rivals else None
    for name, metrics in models.items():
        if best is not None:
            pairs.append((f"{name} over {best}", metrics, baselines[best]))
        if name in before:
            pairs.append((f"{name} over its start", metrics, before[name]))
    if "ranker" in models and "ranker_counters" in models:
        pairs.append(("ranker_counters over ranker", models["ranker_counters"], models["ranker"]))
    found = {title: paired_bootstrap(ours["auc"], theirs["auc"]) for title, ours, theirs in pairs}
    return {title: asdict(difference) for title, difference in found.items() if difference is not None}


def by_category(
    table: ArticleTable, examples: Sequence[ImpressionExample], clicked: Bools, models: Mapping[str, Scores]
) -> list[dict[str, Any]]:
    """Exposure and AUC of every category, most shown first.

    Args:
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

    def auc(category: int, scores: Scores) -> dict[str, Any] | None:
        chosen, hits = [], []
        for at in clicked_in.get(category, ()):
            ours = clicked[at] & (kinds[at] == category)
            kept = ours | ~clicked[at]
            chosen.append(scores[at][kept])
            hits.append(ours[kept])
        return mean_interval(ranking_metrics(chosen, hits)["auc"]) if chosen else None

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
            "auc": {model: auc(at, scores) for model, scores in models.items()},
        }
        for at in np.argsort(-shown, kind="stable").tolist()
        if shown[at]
    ]


def by_activity(
    history_clicks: Sequence[int], auc: Mapping[str, npt.NDArray[np.float64]]
) -> list[dict[str, Any]]:
    """AUC, float64 [impressions] for each model, by the number of clicks before each impression.

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
