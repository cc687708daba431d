"""The whole-pool part of an evaluation: what `recommend` would answer, compared with baselines."""

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.evaluation.pool_rules import POOL_RULES
from genre_tf.evaluation.ranking import mean_metrics
from genre_tf.evaluation.report import Measured, Slices, finite, sliced
from genre_tf.evaluation.significance import bootstrap_intervals, paired_bootstrap

POOL_MODELS = ("recommend", "retrieval")
"""The served funnel, and its first stage alone."""

COMPARED_METRICS = ("recall@10", "ndcg@10")
_ALWAYS_COMPARED = "clicks_1h"  # the strongest simple rule on MIND


def pool_section(
    measured: Measured,
    slices: Slices,
    *,
    articles: int,
    per_moment: npt.NDArray[np.integer],
    rule: str,
    coverage: Mapping[str, float | None] = MappingProxyType({}),
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole-pool part of a report.

    Args:
        measured: "recommend", the other measured `POOL_MODELS`, and baselines by name -> metric -> float64
            [impressions], NaN if undefined.
        slices: result of `slice_masks` for the same impressions.
        articles: articles that were in the pool at any moment.
        per_moment: int [impressions], articles in the pool at the moment of each impression.
        rule: the name in `POOL_RULES` that defines the pool.
        coverage: result of `pool_metrics.coverage` for models and baselines.
        calibration: result of `pool_metrics.calibration` for the scores of `recommend`.

    Returns:
        Ready for JSON; rates are fractions: "recommend", "retrieval" (slice > metric > mean, {} if not
        measured), "baselines" (name > slice > metric > mean), "coverage" (name > fraction),
        "intervals" (name > slice > metric > ends of the 95% bootstrap interval), "significance" ("ours over
        theirs" > metric > the fields of `significance.Difference`), "slices" (measured impressions in each),
        "pool" ("articles", "per_moment" with "mean", "least" and "most", "rule", "reason", "impressions"),
        "calibration". Undefined values are None.

    Raises:
        ValueError: "recommend" was not measured.
    """
    if "recommend" not in measured:
        raise ValueError(f"`recommend` was not measured; got {', '.join(measured) or 'nothing'}")
    means = sliced(measured, slices)
    baselines = {name: parts for name, parts in measured.items() if name not in POOL_MODELS}
    defined = ~np.isnan(measured["recommend"]["recall@10"])
    section = {
        **{name: means.get(name, {}) for name in POOL_MODELS},
        "baselines": {name: means[name] for name in baselines},
        "coverage": dict(coverage),
        "intervals": _intervals(measured, slices),
        "significance": _compared(measured, baselines),
        "slices": {part: int((mask & defined).sum()) for part, mask in slices.items()},
        "pool": _pool(articles, per_moment, rule),
        "calibration": dict(calibration or {}),
    }
    return dict(finite(section))


def _pool(articles: int, per_moment: npt.NDArray[np.integer], rule: str) -> dict[str, Any]:
    sizes = np.asarray(per_moment)
    there = len(sizes) > 0
    return {
        "articles": int(articles),
        "per_moment": {
            "mean": float(sizes.mean()) if there else None,
            "least": int(sizes.min()) if there else None,
            "most": int(sizes.max()) if there else None,
        },
        "rule": rule,
        "reason": POOL_RULES[rule],
        "impressions": len(sizes),
    }


def _intervals(measured: Measured, slices: Slices) -> dict[str, dict[str, dict[str, list[float] | None]]]:
    """name > slice > metric > ends of the interval; None if undefined."""
    columns = [(name, metric) for name, metrics in measured.items() for metric in metrics]
    values = np.stack([measured[name][metric] for name, metric in columns], axis=1)  # [impressions, columns]
    found: dict[str, dict[str, dict[str, list[float] | None]]] = {
        name: {part: {} for part in slices} for name in measured
    }
    for part, mask in slices.items():
        for (name, metric), ends in zip(columns, bootstrap_intervals(values[mask]), strict=True):
            found[name][part][metric] = None if np.isnan(ends).any() else ends.tolist()
    return found


def _compared(measured: Measured, baselines: Measured) -> dict[str, dict[str, Any]]:
    """Compare `recommend` with the other models, the best baseline and current clicks."""
    rivals = [name for name in POOL_MODELS[1:] if name in measured]
    recalls = {name: mean_metrics(metrics)["recall@10"] or 0.0 for name, metrics in baselines.items()}
    best = sorted(recalls, key=lambda name: -recalls[name])[:1]
    rivals += [name for name in dict.fromkeys([*best, _ALWAYS_COMPARED]) if name in baselines]
    found = {
        rival: {
            metric: paired_bootstrap(measured["recommend"][metric], measured[rival][metric])
            for metric in COMPARED_METRICS
        }
        for rival in rivals
    }
    return {
        f"recommend over {rival}": {
            metric: asdict(each) for metric, each in parts.items() if each is not None
        }
        for rival, parts in found.items()
        if any(parts.values())
    }
