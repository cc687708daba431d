"""Validation during training: the metrics of evaluation, on the newest part of the training log."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.data.batches import impression_batches
from genre_tf.evaluation.ranking import mean_metrics, ranking_metrics
from genre_tf.training.stage_data import StageData

_BATCH_IMPRESSIONS = 32


class Validation:
    """Scores the validation impressions with a model as it stands.

    Args:
        model: a `Ranker` or a `TwoTower`.
        data: examples and features.
        config: settings of the run.
    """

    def __init__(self, model: Any, data: StageData, config: RunConfig) -> None:
        self.clicked = [example.labels > 0 for example in data.validation]
        batches = impression_batches(
            data.validation, batch_size=_BATCH_IMPRESSIONS, max_history=config.data.max_history
        )
        self.batches = data.features.pipeline(batches)
        self.forward = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)

    def ranking(self) -> dict[str, float]:
        """AUC of the ranker without and with counters, nDCG@10 without, and the mean of the AUCs."""
        logits: dict[str, list[Any]] = {}
        for batch in self.batches:
            for name, values in self.forward(batch).items():
                logits.setdefault(name, []).extend(_rows(values, batch["mask"]))
        found = self._metrics(logits["click"])
        both = [found["auc"]]
        if "click_with_counters" in logits:
            found["auc_counters"] = self._metrics(logits["click_with_counters"])["auc"]
            both.append(found["auc_counters"])
        return {**found, "auc_mean": float(np.mean(both))}

    def retrieval(self) -> dict[str, float]:
        """AUC and nDCG@10 of the two towers' dot product."""
        scores = []
        for batch in self.batches:
            readers, candidates = self.forward(batch)
            scores += _rows(tf.einsum("bd,bcd->bc", readers, candidates), batch["mask"])
        return self._metrics(scores)

    def _metrics(self, scores: list[Any]) -> dict[str, float]:
        means = mean_metrics(ranking_metrics(scores, self.clicked))
        return {"auc": float(means["auc"] or 0.0), "ndcg@10": float(means["ndcg@10"] or 0.0)}


def _rows(values: tf.Tensor, mask: tf.Tensor) -> list[Any]:
    return [row[real] for row, real in zip(values.numpy(), mask.numpy(), strict=True)]


Validate = Callable[[], dict[str, float]]
