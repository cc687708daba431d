"""Validation during training: the metrics of evaluation, on the newest part of the training log."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.data.batches import impression_batches
from genre_tf.evaluation.ranking import mean_metrics, ranking_metrics
from genre_tf.evaluation.retrieval_metrics import click_ranks
from genre_tf.training.stage_data import StageData

_BATCH_IMPRESSIONS = 32
_MOST_IMPRESSIONS = (
    20_000  # their AUC is known to 0.002; all of a large log would cost more than its training
)


class Validation:
    """Scores the validation impressions, or as many as tell enough, with a model as it stands.

    Args:
        model: a `Ranker` or a `TwoTower`.
        data: examples and features.
        config: settings of the run.
    """

    def __init__(self, model: Any, data: StageData, config: RunConfig) -> None:
        self.examples = data.validation[:: math.ceil(len(data.validation) / _MOST_IMPRESSIONS) or 1]
        self.clicked = [example.labels > 0 for example in self.examples]
        batches = impression_batches(
            self.examples,
            batch_size=_BATCH_IMPRESSIONS,
            max_history=config.data.max_history,
            weighted=False,  # judged as it is served: no request tells how long a click was read
        )
        self.batches = data.features.pipeline(batches)
        # Told the shapes of all batches, and not of the first: one trace.
        self.forward = tf.function(
            lambda batch: model(batch, training=False),
            input_signature=[self.batches.element_spec],
            autograph=False,
        )

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
        """How the two towers place the clicked articles: in the whole pool, and within their impression.

        Returns:
            "pool_auc", the chance that a clicked article stands above another one of the pool of all shown
            articles (recall averaged over every k); "auc", the same within the impression.
        """
        scores, readers = [], []
        pool: dict[int, npt.NDArray[np.float32]] = {}
        for batch in self.batches:
            vectors, candidates = self.forward(batch)
            scores += _rows(tf.einsum("bd,bcd->bc", vectors, candidates), batch["mask"])
            readers.append(vectors.numpy())
            rows = tf.boolean_mask(tf.gather(batch["articles"], batch["candidates"]), batch["mask"]).numpy()
            pool.update(zip(rows.tolist(), tf.boolean_mask(candidates, batch["mask"]).numpy(), strict=True))
        auc = self._metrics(scores)["auc"]
        # What is no number stands nowhere, and would seem to stand first.
        placed = math.nan if math.isnan(auc) else self._pool_auc(np.concatenate(readers), pool)
        return {"pool_auc": placed, "auc": auc}

    def _pool_auc(self, readers: npt.NDArray[np.float32], pool: dict[int, npt.NDArray[np.float32]]) -> float:
        place = {row: position for position, row in enumerate(pool)}
        clicked = [self._places(example.candidates[example.labels > 0], place) for example in self.examples]
        read = [self._places(example.history, place) for example in self.examples]
        ranks = np.concatenate(click_ranks(readers, np.stack(list(pool.values())), clicked, read))
        return float(np.mean(1.0 - (ranks - 1) / max(1, len(pool) - 1)))

    @staticmethod
    def _places(rows: npt.NDArray[np.int32], place: dict[int, int]) -> npt.NDArray[np.int64]:
        return np.asarray([place[row] for row in rows.tolist() if row in place], np.int64)

    def _metrics(self, scores: list[Any]) -> dict[str, float]:
        """AUC and nDCG@10; no numbers where a score is none, for the training to say at which step."""
        if not all(np.isfinite(row).all() for row in scores):
            return {"auc": math.nan, "ndcg@10": math.nan}
        means = mean_metrics(ranking_metrics(scores, self.clicked))
        return {"auc": float(means["auc"] or 0.0), "ndcg@10": float(means["ndcg@10"] or 0.0)}


def _rows(values: tf.Tensor, mask: tf.Tensor) -> list[Any]:
    return [row[real] for row, real in zip(values.numpy(), mask.numpy(), strict=True)]
