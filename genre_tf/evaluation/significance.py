"""Means by slice with their intervals, and whether a difference between two models is more than chance."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.metrics.ranking import mean_metrics

Measured = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
"""Per scorer, per metric, float64 [impressions]."""

Slices = Mapping[str, npt.NDArray[np.bool_]]
"""Per slice, bool [impressions]: the impressions that belong to it."""

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
        theirs: the same for the other model.

    Returns:
        The difference, or None if no impression has both values.

    Raises:
        ValueError: the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {ours.shape} and {theirs.shape} differ; they must be equal")
    gain = np.asarray(ours, np.float64) - theirs
    gain = gain[~np.isnan(gain)]
    if not len(gain):
        return None
    means = np.concatenate([gain[draws].mean(axis=1) for draws in _draws(len(gain))])
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
            means = _resampled_columns(values[rows][:, columns].astype(np.float64))
            ends[columns] = np.quantile(means, _ENDS, axis=0).T
    return ends


def _resampled_columns(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of bootstrap samples: float64 [impressions, metrics] -> [samples, metrics]."""
    count = len(values)
    means = []
    for draws in _draws(count):
        cells = draws + count * np.arange(len(draws))[:, None]
        times = np.bincount(cells.reshape(-1), minlength=draws.size).reshape(draws.shape)
        means.append(times @ values / count)  # the weight of an impression is how often it was drawn
    return np.concatenate(means)


def _draws(count: int) -> Iterator[npt.NDArray[np.int32]]:
    """Row numbers int32 [samples, count], some samples at a time; the same at each call."""
    generator = np.random.default_rng(0)
    per_block = max(1, _BLOCK_DRAWS // count)
    for start in range(0, _SAMPLES, per_block):
        rows = min(per_block, _SAMPLES - start)
        yield generator.integers(count, size=(rows, count), dtype=np.int32)


def mean_interval(values: npt.NDArray[np.floating]) -> dict[str, Any] | None:
    """A mean with its 95% interval, 1.96 standard errors on either side.

    Impressions are treated as independent; those of one reader are not quite, so the interval is slightly
    narrow.

    Args:
        values: float [impressions], fractions; NaN where undefined.

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
    """Means of every scorer in every slice.

    Args:
        measured: per-impression metrics of several scorers.
        slices: result of `slice_masks`.

    Returns:
        scorer > slice > metric, as fractions; None if a slice has nothing to measure.
    """
    return {
        name: {part: mean_metrics(metrics, mask) for part, mask in slices.items()}
        for name, metrics in measured.items()
    }


def auc_intervals(measured: Measured, slices: Slices) -> dict[str, dict[str, list[float | None] | None]]:
    """95% intervals of the AUC of every scorer in every slice.

    Args:
        measured: per-impression metrics of several scorers.
        slices: result of `slice_masks`.

    Returns:
        scorer > slice > ends of the interval, as fractions; None if a slice has nothing to measure.
    """

    def ends(values: npt.NDArray[np.floating]) -> list[float | None] | None:
        found = mean_interval(values)
        return [found["low"], found["high"]] if found else None

    return {
        name: {part: ends(metrics["auc"][mask]) for part, mask in slices.items()}
        for name, metrics in measured.items()
    }


def compared(models: Measured, before: Measured, baselines: Measured) -> dict[str, dict[str, Any]]:
    """Differences in AUC with 95% intervals: each model against the best baseline and its initial state.

    Args:
        models: metrics of the trained models.
        before: metrics of the same models before training; some may be missing.
        baselines: metrics of the baselines.

    Returns:
        "ours over theirs" > the fields of `significance.Difference`.
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
