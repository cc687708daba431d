"""Initial weights of the towers: the weight of each part of a vector, and of the counters.

A few dozen weights decide most of what is found in a pool, and their best values can be computed exactly in
seconds. Gradient steps are then left for what needs them: which clicks count, and for which readers the
moment matters more.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genre_tf.data.columns import ImpressionExample
from genre_tf.models.moment import moment_features
from genre_tf.models.two_tower import TwoTower
from genre_tf.training.softmax_regression import Choices, softmax_regression
from genre_tf.training.stage_data import StageData

_MOST_CLICKS = 6_000  # the weights are stable long before that
_LEAST_WEIGHT = 0.1  # a part that seems useless on a small log still distinguishes articles
_MOST_ARTICLES = 50_000  # articles whose spread shows which directions matter


def start_towers(
    towers: TwoTower,
    data: StageData,
    examples: Sequence[ImpressionExample],
    probabilities: Sequence[npt.NDArray[np.float32]],
    seed: int,
) -> None:
    """Measure what explains the clicks of a training log, and set the initial weights of the towers.

    Args:
        towers: the towers before training, adapted to the log's interest space.
        data: the articles.
        examples: clicks with candidates from the pools of their moments; the click comes first.
        probabilities: for each example, the probability that each candidate was drawn.
        seed: seed of the choice of clicks.
    """
    chosen = np.random.default_rng(seed).permutation(len(examples))[:_MOST_CLICKS]
    some = [examples[number] for number in chosen]
    vectors = towers.news.embed_whole(data.features)  # [articles, sum of parts]
    parts = towers.news.parts
    alike = np.concatenate([part_similarities(one, vectors, parts) for one in some])
    counters = np.concatenate([one.counters for one in some])
    known = moment_features(counters, towers.moment_bias.view_counters).numpy()
    features = np.concatenate([alike, known], axis=1)
    sizes = np.asarray([len(one.candidates) for one in some])
    probability = np.concatenate([probabilities[number] for number in chosen])
    weights = softmax_regression(Choices(features, sizes, probability))
    scales = np.sqrt(np.maximum(weights[: len(parts)], _LEAST_WEIGHT))
    scaled = vectors * np.repeat(scales, parts)
    if towers.news.reduced:
        towers.news.reduce(_directions(scaled, towers.news.reduced, seed) * _column(scales, parts))
    towers.moment_bias.assign(weights[len(parts) :])


def part_similarities(
    example: ImpressionExample, vectors: npt.NDArray[np.float32], parts: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Mean dot product of each part of the candidates with the history's articles, float32 [C, parts]."""
    reader = vectors[example.history].sum(axis=0) / max(1, len(example.history))
    products = vectors[example.candidates] * reader
    return np.add.reduceat(products, np.concatenate([[0], np.cumsum(parts)[:-1]]), axis=1)


def _directions(vectors: npt.NDArray[np.float32], count: int, seed: int) -> npt.NDArray[np.float32]:
    """Principal directions of the vectors, without centring: float32 [width, count]."""
    real = vectors[np.abs(vectors).max(axis=1) > 0]
    real = np.random.default_rng(seed).permutation(real)[:_MOST_ARTICLES].astype(np.float64)
    _, axes = np.linalg.eigh(real.T @ real)  # ascending
    return axes[:, ::-1][:, :count].astype(np.float32)


def _column(scales: npt.NDArray[np.float32], parts: Sequence[int]) -> npt.NDArray[np.float32]:
    return np.repeat(scales, parts)[:, None]
