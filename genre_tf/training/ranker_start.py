"""Initial weights of the ranker: logistic regression on its similarities and counters.

A few dozen weights decide most of a ranking, and their best values can be computed exactly in a second.
Gradient steps are then left for what needs them: the text itself.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.data.batches import impression_batches
from genre_tf.models.ranker import Ranker, flat
from genre_tf.training.stage_data import StageData

_BATCH_IMPRESSIONS = 64
_MOST_CANDIDATES = 300_000  # the weights are stable long before that
_RIDGE = 10.0  # in candidates; otherwise the weights of similar features would cancel each other
_NEWTON_STEPS = 12


def start_ranker(ranker: Ranker, data: StageData, config: RunConfig) -> None:
    """Measure the similarities in a training log, and give the ranker the weights that explain its clicks.

    Args:
        ranker: the ranker before training.
        data: its training log.
        config: settings of the run.
    """
    seen = _similarities(ranker, data, config)
    mean, spread = seen.similarities.mean(0), np.maximum(seen.similarities.std(0), 1e-3)
    weights, bias = logistic_regression((seen.similarities - mean) / spread, seen.labels, seen.counted)
    parts = [3, len(ranker.parts)]
    mean, spread, weights = (np.reshape(x, parts).astype(np.float32) for x in (mean, spread, weights))
    ranker.adapt(mean, spread, weights, bias)
    if ranker.counter_head is not None:
        ranker.counter_head.assign(*logistic_regression(seen.compared, seen.labels, seen.counted))


class _Seen(NamedTuple):
    """For n candidates: similarities [n, S], counter-head features [n, S + 5] or [n, 0], labels [n], and
    the weight of each [n] if signals define one.
    """

    similarities: npt.NDArray[np.float32]
    compared: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    counted: npt.NDArray[np.float32] | None = None


def _similarities(ranker: Ranker, data: StageData, config: RunConfig) -> _Seen:
    vectors = tf.constant(ranker.news.embed(data.features))  # [articles, dimension]
    batches = impression_batches(
        data.train,
        batch_size=_BATCH_IMPRESSIONS,
        max_history=config.data.max_history,
        seed=config.seed,
        shuffle=True,
    )

    @tf.function(input_signature=[batches.element_spec], autograph=False)
    def measure(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        articles = tf.gather(vectors, batch["articles"])
        history, candidates = tf.gather(articles, batch["history"]), tf.gather(articles, batch["candidates"])
        of_history = batch.get("history_weights")
        found = flat(ranker.similarities(history, batch["history"] > 0, candidates, of_history))
        compared = found[..., :0]
        if ranker.counter_head is not None:
            compared = ranker.counter_head.features(found, batch["counters"], batch["mask"])
        columns = [found, compared, batch["labels"]]
        columns += [batch[name] for name in ("label_weights",) if name in batch]
        return tuple(tf.boolean_mask(x, batch["mask"]) for x in columns)

    parts: list[tuple[npt.NDArray[np.float32], ...]] = []
    count = 0
    for batch in batches:
        parts.append(tuple(x.numpy() for x in measure(batch)))
        count += len(parts[-1][-1])
        if count >= _MOST_CANDIDATES:
            break
    return _Seen(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def logistic_regression(
    features: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    counted: npt.NDArray[np.floating] | None = None,
    offset: npt.NDArray[np.floating] | float = 0.0,
) -> tuple[npt.NDArray[np.float32], float]:
    """Weights and bias with the smallest cross-entropy, with a ridge on the weights, by Newton's method.

    Args:
        features: [n, F], with magnitudes around one.
        labels: [n], 0 or 1.
        counted: [n], weight of each row; None: 1 each.
        offset: [n], added to the logits unchanged.

    Returns:
        float32 [F], and the bias.

    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 4.4.1.
    """
    design = np.concatenate([features, np.ones((len(features), 1))], axis=1).astype(np.float64)
    ridge = np.append(np.full(features.shape[1], _RIDGE), 1e-3)
    weights = np.zeros(design.shape[1])
    times: Any = 1.0 if counted is None else counted.astype(np.float64)
    for _ in range(_NEWTON_STEPS):
        probability = 1.0 / (1.0 + np.exp(-np.clip(design @ weights + offset, -30.0, 30.0)))
        gradient = design.T @ (times * (probability - labels)) + ridge * weights
        curvature = (design * (times * probability * (1 - probability))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights -= np.clip(step, -3.0, 3.0)
        if np.abs(step).max() < 1e-6:
            break
    return weights[:-1].astype(np.float32), float(weights[-1])
