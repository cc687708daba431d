"""Training of the two towers: where they start, what is kept, and what cannot be learned from."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from genre_tf.data.moment_pool import draw_from_pool
from genre_tf.errors import InputError
from genre_tf.models.checkpoint import two_tower_of
from genre_tf.models.counter_heads import moment_features
from genre_tf.models.text_model import load_own_weights
from genre_tf.models.two_tower import TwoTower
from genre_tf.training.click_training import Validation
from genre_tf.training.distribution import Distribution
from genre_tf.training.fitted_weights import part_similarities, start_towers
from genre_tf.training.progress import FitResult, Report
from genre_tf.training.retrieval import ready_retrieval
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles


def new_towers(data: StageData) -> TwoTower:
    keras.utils.set_random_seed(1)
    towers = two_tower_of(data.news_encoder(), data.config)
    towers.news.adapt(data.interest)
    return towers


@pytest.fixture(scope="module")
def started(pool_world: StageData) -> TwoTower:
    towers = new_towers(pool_world)
    examples, chances = draw_from_pool(
        pool_world.train, pool_world.pool, shown=4, drawn=20, seed=1, most=10_000
    )
    start_towers(towers, pool_world, examples, chances, 1)
    return towers


def test_the_start_finds_later_clicks_in_their_pools(pool_world: StageData, started: TwoTower) -> None:
    before, after = (
        Validation(towers, pool_world, pool_world.config).retrieval()
        for towers in (new_towers(pool_world), started)
    )
    assert set(before) == {"pool_ndcg", "pool_recall@10", "pool_recall@300", "auc"}
    assert after["pool_ndcg"] > 1.15 * before["pool_ndcg"]
    assert after["pool_recall@10"] > before["pool_recall@10"]
    assert after["pool_recall@300"] == before["pool_recall@300"] == 1, "no day has so many articles"


def test_at_the_start_a_clicked_article_has_a_greater_bias_than_an_ignored_one(started: TwoTower) -> None:
    #           clicks, views, age, clicks 1 h, 6 h, 24 h, views 1 h, 6 h, 24 h
    counters = np.array([[6, 20, 5, 1, 3, 5, 3, 10, 18], [0, 20, 5, 0, 0, 0, 3, 10, 18]], np.float32)
    clicked, ignored = started.moment_bias(counters).numpy()
    assert clicked > ignored + 0.5
    assert moment_features(counters, True).shape[-1] == started.moment_bias.kernel.shape[0]


def test_each_part_is_compared_with_the_mean_of_the_history_by_itself(pool_world: StageData) -> None:
    vectors = np.random.default_rng(1).normal(size=(len(pool_world.table), 7)).astype(np.float32)
    one = next(each for each in pool_world.train if len(each.history) > 1)
    found = part_similarities(one, vectors, (4, 2, 1))
    reader = vectors[one.history].mean(0)
    parts = [vectors[one.candidates][:, part] @ reader[part] for part in (slice(4), slice(4, 6), slice(6, 7))]
    np.testing.assert_allclose(found, np.stack(parts, 1), rtol=1e-4, atol=1e-5)
    nobody = part_similarities(replace(one, history=np.zeros(0, np.int32)), vectors, (4, 2, 1))
    assert nobody.shape == (len(one.candidates), 3) and not nobody.any()


def test_the_directions_keep_the_dot_products_of_the_weighed_parts(
    pool_world: StageData, started: TwoTower
) -> None:
    """Each part has one scale; so scaled, the kernel's columns are directions at right angles."""
    tower, kernel = started.news, started.news.directions.numpy()
    whole, reduced = (tower.embed(pool_world.features, part=part)[1:] for part in ("whole", "vectors"))
    np.testing.assert_allclose(whole @ kernel, reduced, atol=1e-3)
    products = [part.T @ part for part in np.split(kernel, np.cumsum(tower.parts)[:-1])]
    squares, *_ = np.linalg.lstsq(np.stack([each.ravel() for each in products], 1), np.eye(16).ravel())
    np.testing.assert_allclose(np.tensordot(squares, products, 1), np.eye(16), atol=1e-3)
    # Nobody has a subcategory here, so that this part has no direction.
    scaled = whole / np.repeat(np.sqrt(np.maximum(squares, 1e-6)), tower.parts)
    assert (reduced**2).sum() > 0.9 * (scaled**2).sum(), "16 directions of 96 hold nearly everything"


def _train(data: StageData, files: StageFiles, report: Report) -> FitResult:
    return ready_retrieval(data, data.config, files, report, Distribution.one()).fit(files, report)


def test_a_training_keeps_the_weights_that_place_clicks_best(pool_world: StageData, tmp_path: Path) -> None:
    files = StageFiles(tmp_path, "retrieval", "these settings")
    said: list[str] = []
    result = _train(pool_world, files, said.append)
    assert result.metric == "pool_ndcg" and result.best >= result.before > 0.25
    towers = two_tower_of(pool_world.news_encoder(), pool_world.config)
    load_own_weights(towers, files.weights)
    again = Validation(towers, pool_world, pool_world.config).retrieval()
    assert again["pool_ndcg"] == pytest.approx(result.best, rel=1e-4)


def test_a_log_without_a_choice_is_refused_before_the_training(pool_world: StageData, tmp_path: Path) -> None:
    ignored = [replace(one, labels=np.zeros_like(one.labels)) for one in pool_world.train]
    files = StageFiles(tmp_path, "retrieval", "these settings")
    with pytest.raises(InputError, match="450 impressions cannot be used for training"):
        _train(replace(pool_world, train=ignored), files, print)
    assert not files.weights.exists()
