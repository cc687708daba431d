"""What the towers are before training, and what must never depend on padding."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import NewsConfig, RetrievalConfig, RunConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import COUNTERS
from genre_tf.models.checkpoint import news_encoder_of, two_tower_of
from genre_tf.models.two_tower import UserTower

TABLE = ArticleTable(
    [
        Article("N1", "sports", "tennis", "a long match on a hot day", ""),
        Article("N2", "food", "cheese", "cheese", "and wine"),
        Article("N3", "", "", "a long match on a hot day", ""),
    ]
)


@pytest.mark.parametrize("trainable", ["none", "last 1", "all"])
def test_a_tower_gives_the_same_vector_whatever_shares_its_batch(tiny_bert, trainable):
    settings = NewsConfig(backbone="tiny", trainable=trainable)
    backbone = news_encoder_of(tiny_bert, settings, _categories())
    towers = two_tower_of(backbone, RunConfig(news=settings))
    features = backbone.features(TABLE)
    together = towers.news(features.gather(np.array([0, 1, 2, 3]))).numpy()
    unpadded = towers.news(features.gather(np.array([0, 1, 2, 3]), padded=False)).numpy()
    np.testing.assert_allclose(unpadded, together, atol=1e-5)
    for row in (1, 2, 3):
        alone = towers.news(features.gather(np.array([row]))).numpy()[0]
        np.testing.assert_allclose(alone, together[row], atol=2e-3 if trainable != "all" else 1e-5)
    assert not together[0].any(), "the padding article is the zero vector"


def test_the_untrained_text_part_is_the_normalised_mean_of_the_token_states(backbone):
    towers = two_tower_of(backbone, RunConfig())
    features = backbone.features(TABLE)
    states, mask = features.states.gather(np.array([1]))
    mean = states[0][mask[0]].astype(np.float32).mean(0)
    found = towers.news(features.gather(np.array([1]))).numpy()[0]
    np.testing.assert_allclose(found[: len(mean)], mean / np.linalg.norm(mean), atol=1e-5)


def test_text_alone_equals_an_article_without_categories(backbone):
    towers = two_tower_of(backbone, RunConfig())
    table = towers.news.embed(towers.news.features(TABLE))
    text = towers.news(tf.constant(["a long match on a hot day", "", "  "])).numpy()
    np.testing.assert_allclose(text[0], table[3], atol=2e-3)  # tables keep their states as float16
    assert not text[1:].any(), "an empty text is the zero vector"
    assert np.abs(table[1] - table[3]).max() > 0.01, "categories are part of the vector"


@pytest.fixture
def moved_towers(backbone):
    """Towers of 24 dimensions, with a bias, a weight and a user tower that are not those of the start."""
    towers = two_tower_of(backbone, RunConfig(retrieval=RetrievalConfig(dimension=24, heads=4)))
    random = np.random.default_rng(3)
    for weight in towers.trainable_weights:
        weight.assign(weight + random.normal(0, 0.1, weight.shape))
    return towers


def _batch(towers, backbone):
    random = np.random.default_rng(4)
    features = backbone.features(TABLE).gather(np.arange(4))
    return {f"article_{name}": value for name, value in features.items()} | {
        "history": tf.constant([[1, 2, 0], [0, 0, 0]]),
        "candidates": tf.constant([[1, 2, 3, 0], [3, 1, 0, 0]]),
        "counters": tf.constant(random.uniform(0, 50, (2, 4, len(COUNTERS))), tf.float32),
    }


def test_a_search_by_dot_products_finds_the_logits_of_text_and_moment(moved_towers, backbone):
    batch = _batch(moved_towers, backbone)
    readers, candidates = moved_towers.vectors_of(batch)
    queries, articles = (
        moved_towers.query(readers),
        moved_towers.article_vectors(candidates, batch["counters"]),
    )
    assert queries.shape == (2, 25) and articles.shape == (2, 4, 25)
    found = np.einsum("bd,bcd->bc", queries, articles)
    texts = np.einsum("bd,bcd->bc", readers, candidates)
    bias, weight = moved_towers.moment_bias(batch["counters"]), moved_towers.moment_weight(readers)
    np.testing.assert_allclose(found, texts + weight * bias, rtol=1e-4, atol=1e-5)
    assert np.abs(weight * bias).min() > 1e-3 and (weight > 0).numpy().all()
    np.testing.assert_allclose(moved_towers(batch), found, rtol=1e-4, atol=1e-5)


def test_the_moment_weighs_1_for_everybody_before_training_and_adds_nothing(backbone):
    towers = two_tower_of(backbone, RunConfig(retrieval=RetrievalConfig(dimension=24, heads=4)))
    batch = _batch(towers, backbone)
    readers, candidates = towers.vectors_of(batch)
    np.testing.assert_allclose(towers.query(readers)[:, -1], 1.0, rtol=1e-6)
    assert not towers.article_vectors(candidates, batch["counters"])[..., -1].numpy().any()


def test_reduced_vectors_keep_the_dot_products_that_their_directions_hold(backbone):
    whole = two_tower_of(backbone, RunConfig(retrieval=RetrievalConfig(dimension=0))).news
    reduced = two_tower_of(backbone, RunConfig(retrieval=RetrievalConfig(dimension=24, heads=4))).news
    features = backbone.features(TABLE).gather(np.arange(4))
    vectors = whole(features).numpy()
    assert vectors.shape[1] == whole.dimension == sum(whole.parts) and reduced.dimension == 24
    _, _, axes = np.linalg.svd(vectors)  # three articles lie in three directions
    reduced.reduce(axes[:24].T)
    found = reduced(features).numpy()
    assert found.shape == (4, 24) and not found[0].any()
    np.testing.assert_allclose(found @ found.T, vectors @ vectors.T, atol=1e-4)
    np.testing.assert_allclose(reduced.whole(features), vectors, atol=1e-6)


def test_more_directions_than_there_are_leave_the_vectors_as_they_are(backbone):
    towers = two_tower_of(backbone, RunConfig(retrieval=RetrievalConfig(dimension=100_000)))
    assert towers.news.reduced == 0
    assert towers.news.dimension == sum(towers.news.parts)


def test_an_untrained_reader_is_the_mean_of_the_history():
    tower = UserTower(8, heads=2, max_history=5, dropout=0.0)
    history = tf.random.stateless_normal([2, 4, 8], [1, 2])
    mask = tf.constant([[True] * 4, [True, True, False, False]])
    found = tower(history, mask).numpy()
    np.testing.assert_allclose(found[0], history[0].numpy().mean(0), atol=1e-5)
    np.testing.assert_allclose(found[1], history[1, :2].numpy().mean(0), atol=1e-5)


def test_a_click_that_weighs_two_counts_as_two_of_it():
    tower = UserTower(8, heads=2, max_history=5, dropout=0.0)
    tower.pooling.score.kernel.assign(tf.random.stateless_normal([4, 1], [3, 4]))
    history, mask = tf.random.stateless_normal([2, 3, 8], [1, 2]), tf.ones([2, 3], tf.bool)
    ones = tower(history, mask, click_weights=tf.ones([2, 3])).numpy()
    assert np.array_equal(ones, tower(history, mask).numpy()), "bit for bit"
    heavy = tower(history, mask, click_weights=tf.constant([[2.0, 1, 1]] * 2)).numpy()
    twice = tower(tf.concat([history[:, :1], history], 1), tf.ones([2, 4], tf.bool)).numpy()
    np.testing.assert_allclose(heavy, twice, atol=1e-6)
    assert np.abs(heavy - ones).max() > 0.01


def test_readers_without_history_share_a_vector_that_is_learned():
    tower = UserTower(8, heads=2, max_history=5, dropout=0.0)
    tower.no_history.assign(tf.range(8.0))
    with tf.GradientTape() as tape:
        found = tower(tf.zeros([2, 0, 8]), tf.zeros([2, 0], tf.bool))
    np.testing.assert_allclose(found.numpy(), [list(range(8))] * 2)
    assert tape.gradient(found, tower.no_history.value).numpy().all()


def test_recency_counts_from_the_newest_click_whatever_the_padding():
    tower = UserTower(4, heads=1, max_history=3, dropout=0.0)
    tower.pooling.recency_bias.assign([5.0, 0.0, 0.0])  # the newest click weighs most
    history = tf.eye(4)[None, :3]
    short = tower(history[:, :2], tf.constant([[True, True]])).numpy()
    padded = tower(history, tf.constant([[True, True, False]])).numpy()
    np.testing.assert_allclose(short, padded, atol=1e-6)
    assert padded[0].argmax() == 1


def _categories():
    from genre_tf.models.news_encoder import Categories

    return Categories.of(["sports", "food"], ["tennis", "cheese"])
