"""Weights that are computed exactly from a log: where towers and ranker start, and what is fitted last."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.data.batches import impression_batches
from genre_tf.data.columns import Floats, ImpressionColumns, ImpressionExample, Ints, Rows
from genre_tf.data.moment_pool import MomentPool, moment
from genre_tf.evaluation.scoring import RankerScorer
from genre_tf.models.checkpoint import WEIGHTS_FILE, load_two_tower, two_tower_of
from genre_tf.models.counter_heads import moment_features
from genre_tf.models.ranker import Ranker, flat
from genre_tf.models.two_tower import TwoTower
from genre_tf.training.progress import Report
from genre_tf.training.regression import Choices, logistic_regression, softmax_regression
from genre_tf.training.stage_data import StageData

_MOST_CLICKS = 6_000  # the weights are stable long before that
_LEAST_WEIGHT = 0.1  # a part that seems useless on a small log still distinguishes articles
_MOST_ARTICLES = 50_000  # articles whose spread shows which directions matter
_BATCH_IMPRESSIONS = 64
_MOST_CANDIDATES = 300_000  # the weights are stable long before that
_MOST_IMPRESSIONS = 2_500  # a few dozen weights are stable long before that
_FEW = 30  # impressions whose time is measured
_RETRIEVED = 300  # how many articles `genre export` hands to the ranker by default
_DRAWN_RETRIEVED, _DRAWN_REST = 60, 40
_TOP = 30  # places used for calibration: the top of the list, which readers may see

Features = Callable[[ImpressionExample, Rows], Floats]
Lists = list[tuple[ImpressionExample, Rows]]


def start_towers(
    towers: TwoTower,
    data: StageData,
    examples: Sequence[ImpressionExample],
    probabilities: Sequence[Floats],
    seed: int,
) -> None:
    """Measure what explains the clicks of a training log, and set the initial weights of the towers.

    The towers are adapted to the log's interest space before. In each example the click comes first, then
    candidates from the pool of its moment; `probabilities` are those with which each of them was drawn.
    """
    chosen = np.random.default_rng(seed).permutation(len(examples))[:_MOST_CLICKS]
    some = [examples[number] for number in chosen]
    vectors = towers.news.embed(data.features, part="whole")  # [articles, sum of parts]
    parts = towers.news.parts
    alike = np.concatenate([part_similarities(one, vectors, parts) for one in some])
    counters = np.concatenate([one.counters for one in some])
    known = moment_features(counters, towers.moment_bias.view_counters).numpy()
    features = np.concatenate([alike, known], axis=1)
    sizes = np.asarray([len(one.candidates) for one in some])
    probability = np.concatenate([probabilities[number] for number in chosen])
    weights = softmax_regression(Choices(features, sizes, probability))
    if towers.news.reduced:
        scales = np.repeat(np.sqrt(np.maximum(weights[: len(parts)], _LEAST_WEIGHT)), parts)
        scaled = vectors * scales
        # Principal directions of the vectors, without centring: float32 [width, reduced].
        real = np.random.default_rng(seed).permutation(scaled[np.abs(scaled).max(axis=1) > 0])
        real = real[:_MOST_ARTICLES].astype(np.float64)
        _, axes = np.linalg.eigh(real.T @ real)  # ascending
        directions = axes[:, ::-1][:, : towers.news.reduced].astype(np.float32)
        towers.news.reduce(directions * scales[:, None])
    towers.moment_bias.assign(weights[len(parts) :])


def part_similarities(example: ImpressionExample, vectors: Floats, parts: Sequence[int]) -> Floats:
    """Mean dot product of each part of the candidates with the history's articles, float32 [C, parts]."""
    reader = vectors[example.history].sum(axis=0) / max(1, len(example.history))
    products = vectors[example.candidates] * reader
    return np.add.reduceat(products, np.concatenate([[0], np.cumsum(parts)[:-1]]), axis=1)


def start_ranker(ranker: Ranker, data: StageData, config: RunConfig) -> None:
    """Measure similarities in a training log, and give a new ranker the weights that explain its clicks."""
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

    parts: list[tuple[Floats, ...]] = []
    count = 0
    for batch in batches:
        parts.append(tuple(x.numpy() for x in measure(batch)))
        count += len(parts[-1][-1])
        if count >= _MOST_CANDIDATES:
            break
    # For n candidates: similarities [n, S], counter-head features [n, S + 5] or [n, 0], labels [n], and the
    # weight of each [n] if signals define one.
    similarities, compared, labels, *weighted = (np.concatenate(x) for x in zip(*parts, strict=True))
    counted = weighted[0] if weighted else None
    mean, spread = similarities.mean(0), np.maximum(similarities.std(0), 1e-3)
    weights, bias = logistic_regression((similarities - mean) / spread, labels, counted)
    shape = [3, len(ranker.parts)]
    mean, spread, weights = (np.reshape(x, shape).astype(np.float32) for x in (mean, spread, weights))
    ranker.adapt(mean, spread, weights, bias)
    if ranker.counter_head is not None:
        ranker.counter_head.assign(*logistic_regression(compared, labels, counted))


def calibrate(ranker: Ranker, data: StageData) -> None:
    """Refit the biases of a ranker on its training log, so that mean probability and click rate are equal.

    A softmax loss does not train the bias, because it cancels out. The order of candidates does not change,
    nor does how far apart the probabilities of two readers lie.
    """
    shown = int(data.train.shown.sum())
    examples = data.train[:: 1 + shown // _MOST_CANDIDATES]
    labels = np.concatenate([example.labels for example in examples])
    vectors = ranker.news.embed(data.features)
    shifts = []
    for with_counters in (False, True):
        logits = np.concatenate(RankerScorer(ranker, vectors, with_counters)(examples))
        shifts.append(logistic_regression(np.zeros((len(labels), 0)), labels, offset=logits)[1])
    ranker.shift(*shifts)


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

    If it goes on, the head has the weights of an earlier log, which the new log then only corrects.
    """
    towers = load_two_tower(data.run) if (data.run / "retrieval" / WEIGHTS_FILE).is_file() else None
    if towers is None:
        report("no trained retrieval stage; the ranker learns from articles drawn evenly from the pool")
    _fit_pool_head(ranker, towers, data, config, report, goes_on, _MOST_IMPRESSIONS)


def pool_head_seconds(ranker: Ranker, data: StageData, config: RunConfig) -> float:
    """How long `fit_pool_head` will take, from how long it takes for a few impressions and new towers.

    The pool head of the ranker is overwritten.
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
    features, pool = _features_of(ranker, data), data.pool
    learned = data.train[: len(data.train) - data.replayed]
    chosen = _counting(learned, pool)
    # The newest impressions: at the beginning of a log the counters are still empty.
    newest = np.argsort(learned.seconds[chosen], kind="stable")[-most:]
    lists = _lists(towers, data, learned[chosen[newest]])
    if not lists:
        report("no impression has a known pool; the pool head is not trained")
        return
    prior = np.asarray(ranker.pool_head.kernel) if goes_on else None
    kernel = softmax_regression(_choices(features, lists, config.seed), prior)
    ranker.pool_head.assign(kernel, 0.0)
    held_out = data.validation[_counting(data.validation, pool)[:most]]
    slope, bias = _calibrated(features, _lists(towers, data, held_out), kernel)
    ranker.pool_head.assign(kernel * slope, bias)


def _counting(examples: ImpressionColumns, pool: MomentPool) -> Ints:
    """Numbers of the impressions with a click and a pool."""
    clicked = [np.bincount(b.row_of_candidate, b.labels, len(b)) for b in examples.blocks("labels")]
    return np.flatnonzero((np.concatenate([np.zeros(0), *clicked]) > 0) & (pool.sizes(examples.seconds) > 1))


def _features_of(ranker: Ranker, data: StageData) -> Features:
    """The inputs of `pool_head`: (impression, rows of the table) -> features just before it [rows, F]."""
    articles = tf.constant(ranker.news.embed(data.features))
    rows = tf.TensorSpec([None], tf.int32)

    @tf.function(input_signature=[rows, rows, tf.TensorSpec([None, None], tf.float32)], autograph=False)
    def features(history: tf.Tensor, candidates: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
        clicks, mask = tf.gather(articles, history)[None], (history > 0)[None]
        found = ranker.similarities(clicks, mask, tf.gather(articles, candidates)[None])
        return ranker.pool_head.features(flat(found)[0], counters)

    def of_impression(example: ImpressionExample, rows: Rows) -> Floats:
        history = example.history if len(example.history) else np.zeros(1, np.int32)
        counters = data.pool.before(rows, moment(example))
        return np.asarray(features(history, rows.astype(np.int32), counters))

    return of_impression


def _lists(towers: TwoTower | None, data: StageData, examples: Sequence[ImpressionExample]) -> Lists:
    """Impressions, each with the unread pool of its moment, best first according to the towers."""
    pool, found = data.pool, []
    generator = np.random.default_rng(0)
    if towers is not None:
        vectors = towers.news.embed(data.features)
        queries = tf.constant(towers.queries(vectors, [example.history for example in examples]))
    for number, one in enumerate(examples):
        rows = pool.rows(moment(one))
        clicked = one.candidates[one.labels > 0]
        rows = rows[~np.isin(rows, np.setdiff1d(one.history, clicked))]
        if towers is None:
            found.append((one, generator.permutation(rows)))
        else:
            articles = towers.article_vectors(vectors[rows], pool.before(rows, moment(one)))
            scores = np.asarray(tf.linalg.matvec(articles, queries[number]))
            found.append((one, rows[np.argsort(-scores, kind="stable")]))
    return found


def _choices(features: Features, lists: Lists, seed: int) -> Choices:
    generator = np.random.default_rng(seed)
    found: list[Floats] = []
    sizes: list[int] = []
    probabilities: list[Floats] = []
    for one, rows in lists:
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


def _calibrated(features: Features, lists: Lists, kernel: Floats) -> tuple[float, float]:
    """Slope and bias that turn logits of a choice into logits of click probabilities (Platt 1999).

    They are fitted where they are used: on the best of the retrieved articles.
    """
    logits, labels = [], []
    for one, rows in lists:
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
