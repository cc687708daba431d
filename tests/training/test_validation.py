"""Validation during training, and how it is judged."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest

from genre_tf.data.counters import COUNTERS
from genre_tf.data.moment_pool import moment
from genre_tf.evaluation.baselines import simple_baselines
from genre_tf.evaluation.pool_metrics import ranks_of
from genre_tf.metrics.ranking import ranking_metrics
from genre_tf.models.checkpoint import two_tower_of
from genre_tf.models.two_tower import TwoTower
from genre_tf.training.click_training import Validation
from genre_tf.training.stage_data import StageData


def test_scores_that_are_no_numbers_give_metrics_that_are_none() -> None:
    validation = object.__new__(Validation)  # without a model: what is made of its scores
    validation.clicked = [np.array([True, False]), np.array([False, True])]
    right, wrong = np.array([2.0, 1.0]), np.array([np.inf, 1.0])
    assert validation._metrics([right, right])["auc"] == 0.5
    assert all(math.isnan(value) for value in validation._metrics([right, wrong]).values())


@pytest.fixture
def towers(pool_world: StageData) -> TwoTower:
    """Towers whose every part acts."""
    keras.utils.set_random_seed(1)
    model = two_tower_of(pool_world.news_encoder(), pool_world.config)
    random = np.random.default_rng(2)
    for weight in model.trainable_weights:
        weight.assign(weight + random.normal(0, 0.05, weight.shape))
    return model


def test_a_click_is_placed_among_all_that_could_be_shown_then_and_was_not_read(
    pool_world: StageData, towers: TwoTower
) -> None:
    data = replace(pool_world, validation=pool_world.validation[:25])
    vectors = towers.news.embed(data.features)
    gains, found = [], []
    for one in data.validation:
        clicked = one.candidates[one.labels > 0]
        rows = data.pool.rows(moment(one))
        rows = rows[~np.isin(rows, one.history) | np.isin(rows, clicked)]
        history = np.pad(one.history, (0, 5 - len(one.history)))
        reader = towers.user_vector(vectors[history][None], (history > 0)[None])
        articles = towers.article_vectors(vectors[rows], data.pool.before(rows, moment(one))).numpy()
        scores = articles @ towers.query(reader).numpy()[0]
        ranks = [int((scores >= scores[rows == click]).sum()) for click in clicked]
        gains += [1 / math.log2(1 + rank) for rank in ranks]
        found += [np.mean([rank <= 10 for rank in ranks])] if ranks else []
    metrics = Validation(towers, data, data.config).retrieval()
    assert metrics["pool_ndcg"] == pytest.approx(np.mean(gains), rel=0.01)
    assert metrics["pool_recall@10"] == pytest.approx(np.mean(found), abs=0.03)


def test_a_bias_that_is_no_number_is_never_the_best(pool_world: StageData, towers: TwoTower) -> None:
    towers.moment_bias.kernel.assign(np.full(towers.moment_bias.kernel.shape, np.nan))
    data = replace(pool_world, validation=pool_world.validation[:10])
    assert all(math.isnan(value) for value in Validation(towers, data, data.config).retrieval().values())


def test_clicks_of_articles_that_nobody_knows_are_placed_nowhere(
    pool_world: StageData, towers: TwoTower
) -> None:
    unknown = [replace(one, candidates=0 * one.candidates) for one in pool_world.validation[:10]]
    data = replace(pool_world, validation=unknown)
    found = Validation(towers, data, data.config).retrieval()
    assert found["pool_ndcg"] == found["pool_recall@10"] == 0


def test_the_towers_stand_beside_the_best_rule_on_the_same_clicks(
    pool_world: StageData, towers: TwoTower
) -> None:
    data = replace(pool_world, validation=pool_world.validation[:25])
    validation = Validation(towers, data, data.config)
    in_pool, in_impression = validation.retrieval_quality()
    metrics = validation.retrieval()
    assert (in_pool.metric, in_impression.metric) == ("pool_ndcg", "auc")
    assert in_pool.value == pytest.approx(metrics["pool_ndcg"])
    assert in_impression.value == pytest.approx(metrics["auc"])
    gains: dict[str, list[float]] = {name: [] for name in ("clicks", "clicks_24h")}
    for one in data.validation:
        rows = data.pool.rows(moment(one))
        clicked = np.flatnonzero(np.isin(rows, one.candidates[one.labels > 0]))
        rows_read = np.flatnonzero(np.isin(rows, one.history))
        counters = data.pool.before(rows, moment(one))
        for name in gains:
            scores = counters[:, COUNTERS.index(name)].astype(float)
            gains[name] += (1 / np.log2(1 + ranks_of(scores, clicked, rows_read))).tolist()
    assert in_pool.baseline_value is not None and in_pool.gain is not None
    assert in_pool.baseline_value >= max(map(np.mean, gains.values()))
    if in_pool.baseline in gains:
        assert in_pool.baseline_value == pytest.approx(np.mean(gains[in_pool.baseline]))
    assert in_pool.gain == pytest.approx(in_pool.value - in_pool.baseline_value)
    aucs = {
        name: np.nanmean(ranking_metrics(scores, validation.clicked)["auc"])
        for name, scores in simple_baselines(data.validation, data.table, data.config.seed).items()
    }
    assert in_impression.baseline == max(aucs, key=lambda name: aucs[name])
    assert in_impression.baseline_value == pytest.approx(max(aucs.values()))
