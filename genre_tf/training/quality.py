"""How good a model is beside the best baseline, and how much of the difference may be chance."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.evaluation.significance import bootstrap_intervals, paired_bootstrap
from genre_tf.models.checkpoint import WEIGHTS_FILE

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A metric of a model, with 95% bootstrap intervals; None where nothing was measured."""

    model: str
    metric: str  # a perplexity is better if it is smaller
    measured_on: str  # "validation" or a split
    value: float
    low: float | None = None
    high: float | None = None
    baseline: str | None = None  # the best one on the same data
    baseline_value: float | None = None
    # How much better the model is than this baseline: the difference; of perplexities, the share by which the
    # model's is lower.
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None

    @property
    def verdict(self) -> str:
        """In words: is the model better than the best baseline, or may it be chance?"""
        if self.gain_low is None or self.gain_high is None:
            return ""
        return "better" if self.gain_low > 0 else "worse" if self.gain_high < 0 else "within chance"


def judged(model: str, metric: str, ours: Floats, baselines: Mapping[str, Floats]) -> Quality | None:
    """Compare a model with the best of some baselines on the validation data; None if nothing is defined.

    Values are float64 [n], the metric of each impression; for "perplexity" the loss of each text in nats per
    token, and the result is perplexities. NaN if undefined.
    """
    if np.isnan(ours).all():
        return None
    is_loss = metric == "perplexity"
    means = {name: float(np.nanmean(theirs)) for name, theirs in baselines.items()}
    best = (min if is_loss else max)(means, key=lambda name: means[name])
    first, second = (baselines[best], ours) if is_loss else (ours, baselines[best])
    gain = paired_bootstrap(first, second)
    low, high = bootstrap_intervals(ours[:, None])[0].tolist()

    def metric_of(value: float) -> float:
        return math.exp(value) if is_loss else value

    def gain_of(difference: float) -> float:
        return 1 - math.exp(-difference) if is_loss else difference

    return Quality(
        model=model,
        metric=metric,
        measured_on="validation",
        value=metric_of(float(np.nanmean(ours))),
        low=metric_of(low),
        high=metric_of(high),
        baseline=best,
        baseline_value=metric_of(means[best]),
        gain=gain_of(gain.difference) if gain else None,
        gain_low=gain_of(gain.low) if gain else None,
        gain_high=gain_of(gain.high) if gain else None,
    )


def shares(sums: npt.ArrayLike, counts: npt.ArrayLike) -> Floats:
    """A value for each group, whose mean is the sum of all sums [n] divided by the sum of all counts [n].

    The bootstrap draws whole groups (the tokens of one text, the clicks of one impression). Drawing these
    values gives the interval of the ratio, to first order.
    """
    summed, counted = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    ratio = summed.sum() / counted.sum()
    return ratio + (summed - ratio * counted) / counted.mean()


def evaluated(run: Path) -> list[Quality]:
    """What `genre evaluate` has measured on any split since the run's stages were trained."""
    trained = max((file.stat().st_mtime for file in run.glob(f"*/{WEIGHTS_FILE}")), default=0.0)
    files = (run / "reports").glob("evaluation-*.json")
    reports = [json.loads(file.read_text("utf-8")) for file in files if file.stat().st_mtime >= trained]
    return [each for report in sorted(reports, key=lambda one: str(one["split"])) for each in _of(report)]


def _of(report: dict[str, Any]) -> Iterator[Quality]:
    split, baselines = report["split"], report["baselines"]

    def beside_best(
        model: str, metric: str, value: float, ends: Any, rivals: Mapping[str, float], over: Mapping[str, Any]
    ) -> Quality:
        """A metric beside that of the best of the rivals, whose differences are in `over`."""
        low, high = ends or (None, None)
        best = max(rivals, key=lambda name: rivals[name], default=None)
        gain = {"gain": "difference", "gain_low": "low", "gain_high": "high"}
        return Quality(
            model=model,
            metric=metric,
            measured_on=split,
            value=value,
            low=low,
            high=high,
            baseline=best,
            baseline_value=rivals[best] if best else None,
            **({name: over[best][part] for name, part in gain.items()} if best else {}),
        )

    for name, parts in report["models"].items():
        if parts["all"]["auc"] is not None:
            over = {rival: report["significance"].get(f"{name} over {rival}") for rival in baselines}
            rivals = {rival: baselines[rival]["all"]["auc"] for rival, found in over.items() if found}
            yield beside_best(
                name, "auc", parts["all"]["auc"], report["intervals"][name]["all"], rivals, over
            )
    pool, metric = report.get("pool") or {}, "recall@10"
    if pool.get("recommend", {}).get("all", {}).get(metric) is not None:
        compared = pool["significance"]
        over = {rival: compared.get(f"recommend over {rival}", {}).get(metric) for rival in pool["baselines"]}
        rivals = {rival: pool["baselines"][rival]["all"][metric] for rival, found in over.items() if found}
        value, ends = pool["recommend"]["all"][metric], pool["intervals"]["recommend"]["all"][metric]
        yield beside_best("recommend", metric, value, ends, rivals, over)
    if report.get("generation", {}).get("perplexity") is not None:
        yield Quality(
            model="writer", metric="perplexity", measured_on=split, value=report["generation"]["perplexity"]
        )
