"""Paired bootstrap: is a difference between two models more than chance?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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


def paired_bootstrap(
    ours: npt.NDArray[np.floating],
    theirs: npt.NDArray[np.floating],
    *,
    samples: int = 2000,  # the ends of a 95% interval then vary by about 3% of its width between seeds
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference | None:
    """The mean of `ours - theirs` over the same impressions, with a percentile interval.

    Impressions are drawn with replacement, with both models' values together (Koehn, "Statistical
    Significance Tests for Machine Translation Evaluation", 2004).

    Args:
        ours: float [impressions], a metric per impression; NaN where undefined.
        theirs: the same for the other model.
        samples: number of bootstrap samples.
        confidence: share of the bootstrap means inside the interval.
        seed: seed of the draws; the same seed gives the same interval.

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
    means = _resampled_means(gain, samples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(
        difference=float(gain.mean()),
        low=float(low),
        high=float(high),
        probability_not_better=float((means <= 0).mean()),
        impressions=len(gain),
    )


def bootstrap_intervals(
    values: npt.NDArray[np.floating],
    *,
    samples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Percentile bootstrap intervals for the means of many metrics, from the same draws of impressions.

    Args:
        values: float [impressions, metrics]; NaN where undefined: such an impression is not drawn for that
            metric.
        samples: number of bootstrap samples.
        confidence: share of the bootstrap means inside the interval.
        seed: seed of the draws; the same seed gives the same intervals.

    Returns:
        float64 [metrics, 2], the ends; NaN if no impression has a value.
    """
    ends = np.full((values.shape[1], 2), np.nan)
    known = ~np.isnan(values)
    # Metrics that are undefined for the same impressions are drawn together, as one matrix product.
    patterns, group = np.unique(known, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        columns = np.flatnonzero(group.reshape(-1) == number)
        rows = patterns[:, number]
        if rows.any():
            means = _resampled_columns(
                values[rows][:, columns].astype(np.float64), samples, np.random.default_rng(seed)
            )
            ends[columns] = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0).T
    return ends


def _resampled_means(
    gain: npt.NDArray[np.float64], samples: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    return np.concatenate([gain[draws].mean(axis=1) for draws in _draws(len(gain), samples, generator)])


def _resampled_columns(
    values: npt.NDArray[np.float64], samples: int, generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    """float64 [samples, metrics], of values [impressions, metrics]."""
    count = len(values)
    means = []
    for draws in _draws(count, samples, generator):
        cells = draws + count * np.arange(len(draws))[:, None]
        times = np.bincount(cells.reshape(-1), minlength=draws.size).reshape(draws.shape)
        means.append(times @ values / count)  # the weight of an impression is how often it was drawn
    return np.concatenate(means)


def _draws(count: int, samples: int, generator: np.random.Generator) -> Iterator[npt.NDArray[np.int32]]:
    """Row numbers int32 [samples, count], some samples at a time."""
    per_block = max(1, _BLOCK_DRAWS // count)
    for start in range(0, samples, per_block):
        rows = min(per_block, samples - start)
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
