"""Quality of click probabilities: calibration, and how clicks are distributed over them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

THRESHOLDS = 201
"""Number of probability bins, 0.005 wide each; TensorBoard's precision-recall curves are drawn from them."""

CALIBRATION_GROUPS = 10
_SURE = 1.96  # standard errors on either side of a 95% interval


def click_quality(
    logits: Sequence[npt.NDArray[np.floating]], clicked: Sequence[npt.NDArray[np.bool_]]
) -> dict[str, Any]:
    """Compare click probabilities with clicks, over all shown articles.

    Args:
        logits: per impression float [candidates], logits of the click probability.
        clicked: per impression bool [candidates].

    Returns:
        "shown" and "clicked" (counts), "click_rate", "mean_probability", "log_loss" in nats,
        "calibration_error" (mean difference between probability and rate over the groups), "calibration"
        (`calibration_groups`), "histogram": shown and clicked articles for each of `THRESHOLDS` probability
        bins of equal width, the last of which only holds probability 1.
    """
    flat = np.concatenate([np.asarray(row, np.float64) for row in logits])
    hits = np.concatenate([np.asarray(row, bool) for row in clicked])
    probability = click_probability(flat)
    groups = calibration_groups(probability, hits)
    bins = np.floor(probability * (THRESHOLDS - 1)).astype(np.int64)
    distance = sum(group["shown"] * abs(group["probability"] - group["rate"]) for group in groups)
    return {
        "shown": len(flat),
        "clicked": int(hits.sum()),
        "click_rate": float(hits.mean()),
        "mean_probability": float(probability.mean()),
        # softplus of the logit, minus the logit where it was clicked: never takes the logarithm of 0
        "log_loss": float(np.mean(np.logaddexp(0.0, flat) - flat * hits)),
        "calibration_error": distance / len(flat),
        "calibration": groups,
        "histogram": {
            "shown": np.bincount(bins, minlength=THRESHOLDS).tolist(),
            "clicked": np.bincount(bins[hits], minlength=THRESHOLDS).tolist(),
        },
    }


def calibration(
    scores: npt.NDArray[np.floating], clicked: npt.NDArray[np.bool_], bins: int = CALIBRATION_GROUPS
) -> dict[str, Any]:
    """Compare scores that should be click probabilities, float [articles], with the clicks, bool [articles].

    Returns:
        "mean_score", "click_rate", "ratio" (mean score divided by click rate: above 1 is too confident),
        "brier" (the mean squared difference of score and click; Brier, "Verification of Forecasts Expressed
        in Terms of Probability", 1950), "brier_of_click_rate" (what the same rate for every article gets);
        "bins", `calibration_groups` under the names "mean_score", "click_rate", "low", "high" and "count".
        None, and no bins, if there are no articles; no ratio without a click.
    """
    if not len(scores):
        names = ("mean_score", "click_rate", "ratio", "brier", "brier_of_click_rate")
        return {**dict.fromkeys(names), "bins": []}
    exact, hits = np.asarray(scores, np.float64), np.asarray(clicked, bool)
    mean, rate = float(exact.mean()), float(hits.mean())
    renamed = {"probability": "mean_score", "rate": "click_rate", "shown": "count"}
    return {
        "mean_score": mean,
        "click_rate": rate,
        "ratio": mean / rate if rate else None,
        "brier": float(((exact - hits) ** 2).mean()),
        "brier_of_click_rate": rate * (1.0 - rate),
        "bins": [
            {renamed.get(name, name): value for name, value in group.items()}
            for group in calibration_groups(exact, hits, bins)
        ],
    }


def calibration_groups(
    probability: npt.NDArray[np.float64], hits: npt.NDArray[np.bool_], groups: int = CALIBRATION_GROUPS
) -> list[dict[str, Any]]:
    """Click rates of groups with equal numbers of articles, in order of probability.

    Returns:
        For each group "shown", "probability" (mean), "rate", and its 95% interval "low" to "high".
    """
    found = []
    for rows in np.array_split(np.argsort(probability, kind="stable"), groups):
        if len(rows):
            low, high = share_interval(int(hits[rows].sum()), len(rows))
            mean, rate = float(probability[rows].mean()), float(hits[rows].mean())
            found.append({"shown": len(rows), "probability": mean, "rate": rate, "low": low, "high": high})
    return found


def click_probability(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The sigmoid of logits of any size, as float64 of the same shape."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, "Probable Inference", 1927), correct for rates near 0 too."""
    share, square = hits / count, _SURE**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _SURE * np.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
