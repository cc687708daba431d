"""The ranker's weights for whole-pool ranking: which of the retrieved articles is clicked."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.data.columns import ImpressionColumns, ImpressionExample, Ints
from genre_tf.data.moment_pool import MomentPool, moment
from genre_tf.evaluation.scoring import TwoTowerScorer
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_two_tower, two_tower_of
from genre_tf.models.ranker import Ranker, flat
from genre_tf.models.two_tower import TwoTower
from genre_tf.training.progress import Report
from genre_tf.training.ranker_start import logistic_regression
from genre_tf.training.softmax_regression import Choices, softmax_regression
from genre_tf.training.stage_data import StageData

_MOST_IMPRESSIONS = 2_500  # a few dozen weights are stable long before that
_FEW = 30  # impressions whose time is measured
_RETRIEVED = 300  # how many articles `genre export` hands to the ranker by default
_DRAWN_RETRIEVED, _DRAWN_REST = 60, 40
_TOP = 30  # places used for calibration: the top of the list, which readers may see

Vectors = npt.NDArray[np.float32]


class _Lists(NamedTuple):
    """Impressions, each with the pool of its moment, best first according to the towers."""

    examples: list[ImpressionExample]
    rows: list[npt.NDArray[np.int32]]


def fit_pool_head(
    ranker: Ranker,
    data: StageData,
    config: RunConfig,
    report: Report,
    *,
    goes_on: bool = False,
) -> None:
    """Fit the weights of the ranker's `pool_head` to clicks from the whole pool, then calibrate it.

    From the pool of each click, some of the best 300 articles and some of the rest are drawn, each weighted
    by the number of articles that it represents. So the weights are those of a choice from the whole pool.
    Then the probabilities are fitted to the newest part of the log, which was not used for training.

    Args:
        ranker: the trained ranker.
        data: its training log.
        config: settings of the run.
        report: takes a line of progress.
        goes_on: whether the head has the weights of an earlier log, which the new log then only corrects.
    """
    towers = load_two_tower(data.run) if (data.run / "retrieval" / WEIGHTS_FILE).is_file() else None
    if towers is None:
        report("no trained retrieval stage; the ranker learns from articles drawn evenly from the pool")
    _fit_pool_head(ranker, towers, data, config, report, goes_on, _MOST_IMPRESSIONS)


def pool_head_seconds(ranker: Ranker, data: StageData, config: RunConfig) -> float:
    """How long `fit_pool_head` will take, from how long it takes for a few impressions and new towers.

    Args:
        ranker: a ranker, whose pool head is overwritten.
        data: its training log.
        config: settings of the run.
    """
    towers = two_tower_of(data.news_encoder(config.retrieval.dimension), config)

    def seconds(most: int) -> float:
        began = time.monotonic()
        _fit_pool_head(ranker, towers, data, config, lambda line: None, False, most)
        return time.monotonic() - began

    few, more = seconds(_FEW), seconds(3 * _FEW)
    impressions = sum(min(len(each), _MOST_IMPRESSIONS) for each in (data.train, data.validation))
    return few + max(0.0, more - few) / (4 * _FEW) * impressions


def _fit_pool_head(
    ranker: Ranker,
    towers: TwoTower | None,
    data: StageData,
    config: RunConfig,
    report: Report,
    goes_on: bool,
    most: int,
) -> None:
    features = _Features(ranker, data)
    learned = data.train[: len(data.train) - data.replayed]
    chosen = _counting(learned, data.pool)
    # The newest impressions: at the beginning of a log the counters are still empty.
    newest = np.argsort(learned.seconds[chosen], kind="stable")[-most:]
    lists = _lists(towers, data, learned[chosen[newest]])
    if not lists.examples:
        report("no impression has a known pool; the pool head is not trained")
        return
    prior = np.asarray(ranker.pool_head.kernel) if goes_on else None
    kernel = softmax_regression(_choices(features, lists, data.pool, config.seed), prior)
    ranker.pool_head.assign(kernel, 0.0)
    held_out = data.validation[_counting(data.validation, data.pool)[:most]]
    slope, bias = _calibrated(features, _lists(towers, data, held_out), data.pool, kernel)
    ranker.pool_head.assign(kernel * slope, bias)


def _counting(examples: ImpressionColumns, pool: MomentPool) -> Ints:
    """Numbers of the impressions with a click and a pool."""
    clicked = [np.bincount(b.row_of_candidate, b.labels, len(b)) for b in examples.blocks("labels")]
    return np.flatnonzero((np.concatenate([np.zeros(0), *clicked]) > 0) & (pool.sizes(examples.seconds) > 1))


class _Features:
    """The inputs of `pool_head`: features of an impression's reader and any rows of the table."""

    def __init__(self, ranker: Ranker, data: StageData) -> None:
        articles = tf.constant(ranker.news.embed(data.features))
        rows = tf.TensorSpec([None], tf.int32)

        def features(history: tf.Tensor, candidates: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
            clicks, mask = tf.gather(articles, history)[None], (history > 0)[None]
            found = ranker.similarities(clicks, mask, tf.gather(articles, candidates)[None])
            return ranker.pool_head.features(flat(found)[0], counters)

        signature = [rows, rows, tf.TensorSpec([None, None], tf.float32)]
        self._features = tf.function(features, input_signature=signature, autograph=False)
        self._pool = data.pool

    def __call__(self, example: ImpressionExample, rows: npt.NDArray[np.int32]) -> Vectors:
        """Features of rows just before an impression, float32 [len(rows), S + F]."""
        history = example.history if len(example.history) else np.zeros(1, np.int32)
        counters = self._pool.counters(rows, moment(example))
        return np.asarray(self._features(history, rows.astype(np.int32), counters))


def _lists(towers: TwoTower | None, data: StageData, examples: Sequence[ImpressionExample]) -> _Lists:
    pool = data.pool
    if towers is None:
        generator = np.random.default_rng(0)
        return _Lists(list(examples), [generator.permutation(_unread(one, pool)) for one in examples])
    vectors = towers.news.embed(data.features)
    queries = towers.query(TwoTowerScorer(towers, vectors).user_vectors(examples))
    ordered = []
    for one, query in zip(examples, queries, strict=True):
        rows = _unread(one, pool)
        articles = towers.article_vectors(vectors[rows], pool.counters(rows, moment(one)))
        scores = np.asarray(tf.linalg.matvec(articles, query))
        ordered.append(rows[np.argsort(-scores, kind="stable")])
    return _Lists(list(examples), ordered)


def _unread(example: ImpressionExample, pool: MomentPool) -> npt.NDArray[np.int32]:
    rows = pool.rows(moment(example))
    clicked = example.candidates[example.labels > 0]
    return rows[~np.isin(rows, np.setdiff1d(example.history, clicked))]


def _choices(features: _Features, lists: _Lists, pool: MomentPool, seed: int) -> Choices:
    generator = np.random.default_rng(seed)
    found: list[Vectors] = []
    sizes: list[int] = []
    probabilities: list[Vectors] = []
    for one, rows in zip(lists.examples, lists.rows, strict=True):
        clicked = one.candidates[(one.labels > 0) & (one.candidates > 0)]
        parts = []
        for part, most in ((rows[:_RETRIEVED], _DRAWN_RETRIEVED), (rows[_RETRIEVED:], _DRAWN_REST)):
            others = part[~np.isin(part, clicked)]
            drawn = generator.permutation(others)[:most]
            parts.append((drawn, len(drawn) / max(1, len(others))))
        negatives = np.concatenate([drawn for drawn, _ in parts])
        known = features(one, np.concatenate([clicked, negatives]))
        shares = np.repeat([share for _, share in parts], [len(drawn) for drawn, _ in parts])
        for number in range(len(clicked)):
            found.append(np.concatenate([known[[number]], known[len(clicked) :]]))
            sizes.append(1 + len(negatives))
            probabilities.append(np.concatenate([[1.0], shares]).astype(np.float32))
    return Choices(np.concatenate(found), np.asarray(sizes), np.concatenate(probabilities))


def _calibrated(features: _Features, lists: _Lists, pool: MomentPool, kernel: Vectors) -> tuple[float, float]:
    """Slope and bias that turn logits of a choice into logits of click probabilities (Platt 1999).

    They are fitted where they are used: on the best of the retrieved articles.
    """
    logits, labels = [], []
    for one, rows in zip(lists.examples, lists.rows, strict=True):
        retrieved = rows[:_RETRIEVED]
        scores = features(one, retrieved) @ kernel
        best = np.argsort(-scores, kind="stable")[:_TOP]
        logits.append(scores[best])
        labels.append(np.isin(retrieved[best], one.candidates[one.labels > 0]))
    if not logits or not np.concatenate(labels).any():
        return 1.0, 0.0
    together = np.concatenate(logits)
    mean, spread = float(together.mean()), max(float(together.std()), 1e-3)
    weights, bias = logistic_regression(((together - mean) / spread)[:, None], np.concatenate(labels))
    slope = max(float(weights[0]) / spread, 1e-3)  # keeps the order
    return slope, bias - slope * mean
