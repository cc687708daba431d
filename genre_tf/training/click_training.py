"""What retrieval and ranking share: the batches that they are trained on, and how they are validated."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import OptimizerConfig, RunConfig
from genre_tf.data.batches import BatchLayout, Columns, FixedShape, impression_batches
from genre_tf.data.columns import ImpressionColumns, ImpressionExample
from genre_tf.data.moment_pool import Rows, moment
from genre_tf.evaluation.baselines import simple_baselines
from genre_tf.evaluation.pool_metrics import BASELINES, baseline_scores, ranks_of
from genre_tf.metrics.ranking import click_ranks, mean_metrics, ranking_metrics, recall
from genre_tf.training.distribution import Distribution
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Goal
from genre_tf.training.quality import Quality, judged, shares
from genre_tf.training.stage_data import StageData, row_count
from genre_tf.training.stage_files import StageFiles

Places = npt.NDArray[np.int64]

# Used where shapes are fixed and all candidates are kept: nine in ten impressions of MIND show fewer.
_MOST_CANDIDATES = 96
_BATCH_IMPRESSIONS = 32
# Enough to know the AUC to 0.002; scoring all of a large log would cost more than its training.
_MOST_IMPRESSIONS = 20_000
_MOST_IN_POOL = 2_000  # impressions that are ranked in their whole pool


class Validation:
    """Scores the validation impressions, or a sufficient sample, with a ranker or two towers as they are."""

    def __init__(self, model: Any, data: StageData, config: RunConfig) -> None:
        self.model, self.data = model, data
        self.examples = data.validation[:: math.ceil(len(data.validation) / _MOST_IMPRESSIONS) or 1]
        self.config = config
        self.clicked = [example.labels > 0 for example in self.examples]
        self.with_click = np.flatnonzero([clicked.any() for clicked in self.clicked])[:_MOST_IN_POOL]
        batches = impression_batches(
            self.examples,
            batch_size=_BATCH_IMPRESSIONS,
            max_history=config.data.max_history,
            weighted=False,  # measured as served: a request does not say how long a click was read
        )
        self.batches = data.features.pipeline(batches)
        # Given the shapes of all batches, not those of the first, so that it is traced once.
        self.forward = tf.function(
            lambda batch: getattr(model, "vectors_of", model)(batch, training=False),
            input_signature=[self.batches.element_spec],
            autograph=False,
        )

    def ranking(self) -> dict[str, float]:
        """AUC of the ranker without and with counters, nDCG@10 without counters, and the mean of the AUCs."""
        logits = self._logits()
        found = self._metrics(logits["click"])
        both = [found["auc"]]
        if "click_with_counters" in logits:
            found["auc_counters"] = self._metrics(logits["click_with_counters"])["auc"]
            both.append(found["auc_counters"])
        return {**found, "auc_mean": float(np.mean(both))}

    def _logits(self) -> dict[str, list[Any]]:
        logits: dict[str, list[Any]] = {}
        for batch in self.batches:
            for name, values in self.forward(batch).items():
                logits.setdefault(name, []).extend(_rows(values, batch["mask"]))
        return logits

    def ranking_quality(self) -> list[Quality]:
        """AUC of the ranker without and with counters, beside the best baseline."""
        names = {"click": "ranker", "click_with_counters": "ranker_counters"}
        return self._auc_quality({names[name]: scores for name, scores in self._logits().items()})

    def retrieval_quality(self) -> list[Quality]:
        """What `retrieval` measures in the pool and in the impression, beside the best baseline of each."""
        queries, scores = self._towers()
        ranks = self._pool_ranks(queries)
        clicks = [len(each) for each in ranks]
        in_pool = None
        if sum(clicks):
            found: dict[str, Sequence[npt.NDArray[Any]]] = {"two_tower": ranks, **self._baseline_ranks()}
            gains = {
                name: shares([np.sum(1 / np.log2(1 + each)) for each in of], clicks)
                for name, of in found.items()
            }
            in_pool = judged("two_tower", "pool_ndcg", gains.pop("two_tower"), gains)
        return [*([in_pool] if in_pool else []), *self._auc_quality({"two_tower": scores})]

    def _auc_quality(self, models: dict[str, list[Any]]) -> list[Quality]:
        scores = {**models, **simple_baselines(self.examples, self.data.table, self.config.seed)}
        aucs = {name: ranking_metrics(each, self.clicked)["auc"] for name, each in scores.items()}
        ours = {name: aucs.pop(name) for name in models}
        found = [judged(name, "auc", values, aucs) for name, values in ours.items()]
        return [each for each in found if each is not None]

    def _baseline_ranks(self) -> dict[str, list[npt.NDArray[np.float64]]]:
        """By baseline, the ranks of the clicked articles of the impressions of `_pool_ranks`."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.data.table.categories))}
        category_of = np.asarray([numbers[name] for name in self.data.table.categories])
        generator = np.random.default_rng(self.config.seed)
        found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in BASELINES}
        for one, rows, clicked, read in self._in_pool():
            counters = self.data.pool.before(rows, moment(one))
            scores = baseline_scores(counters, category_of[rows], category_of[one.history], generator)
            for name in BASELINES:
                found[name].append(ranks_of(scores[name], clicked, read))
        return found

    def retrieval(self) -> dict[str, float]:
        """How the two towers rank the clicked articles: in the pool of the moment, and in the impression.

        Returns:
            "pool_ndcg", the mean over clicks of 1 / log2(1 + rank) among all articles that could be shown
            then and were not read; "pool_recall@10" and "pool_recall@300"; "auc", of the texts within the
            impression.
        """
        queries, scores = self._towers()
        auc = self._metrics(scores)["auc"]
        ranks = self._pool_ranks(queries)
        found = np.concatenate([*ranks, np.zeros(0, np.int64)])
        # NaN is not smaller than itself, so it would seem to be ranked before the first.
        if math.isnan(auc) or not found.all():
            return dict.fromkeys(("pool_ndcg", "pool_recall@10", "pool_recall@300", "auc"), math.nan)
        return {
            "pool_ndcg": float(np.sum(1 / np.log2(1 + found)) / max(1, len(found))),
            **{f"pool_{name}": value or 0.0 for name, value in recall(ranks, (10, 300)).items()},
            "auc": auc,
        }

    def _towers(self) -> tuple[npt.NDArray[np.float32], list[Any]]:
        """Of each impression the query, float32 [I, D + 1], and the scores of its candidates."""
        readers, scores = [], []
        for batch in self.batches:
            vectors, candidates = self.forward(batch)
            scores += _rows(tf.einsum("bd,bcd->bc", vectors, candidates), batch["mask"])
            readers.append(vectors)
        return self.model.query(tf.concat(readers, 0)).numpy(), scores

    def _in_pool(self) -> Iterator[tuple[ImpressionExample, Rows, Places, Places]]:
        """Impressions with a click: rows of the pool, places of clicked and of read articles in it."""
        for number in self.with_click:
            one = self.examples[number]
            rows = self.data.pool.rows(moment(one))
            clicked = one.candidates[one.labels > 0]
            yield one, rows, *(np.flatnonzero(np.isin(rows, each)) for each in (clicked, one.history))

    def _pool_ranks(self, queries: npt.NDArray[np.float32]) -> list[npt.NDArray[np.int64]]:
        """Ranks of the clicked articles of each impression that has any: queries float32 [I, D + 1]."""
        pool, features = self.data.pool, self.data.features
        needed = np.unique(np.concatenate([pool.rows(moment(one)) for one in self.examples]))
        vectors = dict(zip(needed.tolist(), self.model.news.embed(features, needed), strict=True))
        ranks = []
        for query, (one, rows, clicked, read) in zip(queries[self.with_click], self._in_pool(), strict=True):
            bias = self.model.moment_bias(pool.before(rows, moment(one))).numpy()
            articles = np.column_stack([np.stack([vectors[row] for row in rows.tolist()]), bias])
            ranks += click_ranks(query[None], articles, [clicked], [read])
        return ranks

    def _metrics(self, scores: list[Any]) -> dict[str, float]:
        """AUC and nDCG@10; NaN if any score is NaN, so that the training can report the step."""
        if not all(np.isfinite(row).all() for row in scores):
            return {"auc": math.nan, "ndcg@10": math.nan}
        means = mean_metrics(ranking_metrics(scores, self.clicked))
        return {"auc": float(means["auc"] or 0.0), "ndcg@10": float(means["ndcg@10"] or 0.0)}


def _rows(values: tf.Tensor, mask: tf.Tensor) -> list[Any]:
    return [row[real] for row, real in zip(values.numpy(), mask.numpy(), strict=True)]


def click_training(
    trainer: Learner,
    data: StageData,
    config: RunConfig,
    settings: OptimizerConfig,
    files: StageFiles,
    devices: Distribution,
    *,
    examples: ImpressionColumns,
    columns: Columns,
    metric: str,
    measure: Callable[[Validation], dict[str, float]],
    judge: Callable[[Validation], Sequence[Quality]],
    negatives: int | None = None,
    **options: Any,
) -> Training:
    """The training of a model on clicks; `options` are further arguments of `Training`.

    The metric, the greater the better, decides which weights are best; `measure` computes it and others, and
    `judge` compares the best weights with baselines. For a training that continues an earlier run, what that
    run held out is measured too. So many negatives are drawn per click; None keeps every candidate.
    """
    fixed = None
    if devices.fixed_shapes:
        longest = min(int(examples.shown.max()), _MOST_CANDIDATES)
        fixed = FixedShape.of(
            max(1, settings.batch_size // devices.replicas),
            config.data.max_history,
            longest if negatives is None else 1 + negatives,
            len(data.table),
            devices.articles,
        )

    def batches(start: int, layout: BatchLayout) -> tf.data.Dataset:
        found = impression_batches(
            examples,
            batch_size=settings.batch_size,
            max_history=config.data.max_history,
            negatives=negatives,
            seed=config.seed,
            shuffle=True,
            repeat=True,
            layout=layout,
            start=start,
            columns=columns,
        )
        return data.features.pipeline(found, None if layout.fixed is None else config.news.max_title_tokens)

    validation = Validation(trainer.model, data, config)
    older = None if files.start is None else Validation(trainer.model, data.of_earlier, config)
    in_epoch = math.ceil(row_count(examples, negatives) / settings.batch_size)
    return Training(
        trainer=trainer,
        batches_from=lambda step: devices.distribute(partial(batches, step * settings.accumulate), fixed),
        steps=settings.steps_of(in_epoch),
        config=settings.of_epoch(in_epoch),
        goal=Goal(
            validate=partial(measure, validation),
            metric=metric,
            greater_is_better=True,
            validate_older=None if older is None else partial(measure, older),
            judge=partial(judge, validation),
        ),
        jit_compile=devices.jit_compile,
        **options,
    )
