"""Where the towers start: how much each part of a vector counts, and what the counters weigh.

A few dozen weights decide most of what is found in a pool, and their best values are found exactly in
seconds. Gradient steps are left with what they are needed for: which clicks count, and for whom the moment
weighs more.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genre_tf.data.examples import ImpressionExample
from genre_tf.models.moment import moment_features
from genre_tf.models.two_tower import TwoTower
from genre_tf.training.softmax_regression import Choices, softmax_regression
from genre_tf.training.stage_data import StageData

_MOST_CLICKS = 6_000  # the weights are steady long before
_LEAST_WEIGHT = 0.1  # a part that seems to count for nothing on a small log still tells articles apart
_MOST_ARTICLES = 50_000  # whose spread says which directions matter


def start_towers(
    towers: TwoTower,
    data: StageData,
    examples: Sequence[ImpressionExample],
    probabilities: Sequence[npt.NDArray[np.float32]],
    seed: int,
) -> None:
    """Measure what decides the clicks of a training log, and let the towers start from it.

    Args:
        towers: before training, adapted to the log's interest space.
        data: its articles.
        examples: clicks with candidates out of the pool of their moments, the click first.
        probabilities: of each, how likely its candidates were to be drawn.
        seed: of the choice of clicks.
    """
    chosen = np.random.default_rng(seed).permutation(len(examples))[:_MOST_CLICKS]
    some = [examples[number] for number in chosen]
    vectors = towers.encoder.whole(data.features)  # [articles, sum of parts]
    parts = towers.news_tower.parts
    alike = np.concatenate([part_similarities(one, vectors, parts) for one in some])
    counters = np.concatenate([one.counters for one in some])
    known = moment_features(counters, towers.moment_bias.view_counters).numpy()
    features = np.concatenate([alike, known], axis=1)
    sizes = np.asarray([len(one.candidates) for one in some])
    probability = np.concatenate([probabilities[number] for number in chosen])
    weights = softmax_regression(Choices(features, sizes, probability))
    scales = np.sqrt(np.maximum(weights[: len(parts)], _LEAST_WEIGHT))
    scaled = vectors * np.repeat(scales, parts)
    if towers.news_tower.reduced:
        towers.news_tower.reduce(
            _directions(scaled, towers.news_tower.reduced, seed) * _column(scales, parts)
        )
    towers.moment_bias.assign(weights[len(parts) :])


def part_similarities(
    example: ImpressionExample, vectors: npt.NDArray[np.float32], parts: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Mean dot product of each part of the candidates with the clicks of the history, float32 [C, parts]."""
    reader = vectors[example.history].sum(axis=0) / max(1, len(example.history))
    products = vectors[example.candidates] * reader
    return np.add.reduceat(products, np.concatenate([[0], np.cumsum(parts)[:-1]]), axis=1)


def _directions(vectors: npt.NDArray[np.float32], count: int, seed: int) -> npt.NDArray[np.float32]:
    """The directions in which dot products lie, float32 [width, count]: principal ones, not centred."""
    real = vectors[np.abs(vectors).max(axis=1) > 0]
    real = np.random.default_rng(seed).permutation(real)[:_MOST_ARTICLES].astype(np.float64)
    _, axes = np.linalg.eigh(real.T @ real)  # ascending
    return axes[:, ::-1][:, :count].astype(np.float32)


def _column(scales: npt.NDArray[np.float32], parts: Sequence[int]) -> npt.NDArray[np.float32]:
    return np.repeat(scales, parts)[:, None]
