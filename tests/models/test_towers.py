"""What the towers are before training, and what must never depend on padding."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import NewsConfig, RunConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.models.article_features import ArticleFeatures
from genre_tf.models.backbone import load_news_backbone
from genre_tf.models.embedding import embed_articles
from genre_tf.models.two_tower import TwoTower
from genre_tf.models.user_tower import UserTower

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
    backbone = load_news_backbone(tiny_bert, settings, _categories())
    towers = TwoTower(backbone, RunConfig(news=settings))
    features = ArticleFeatures.of(TABLE, backbone)
    together = towers.news_tower(features.gather(np.array([0, 1, 2, 3]))).numpy()
    for row in (1, 2, 3):
        alone = towers.news_tower(features.gather(np.array([row]))).numpy()[0]
        np.testing.assert_allclose(alone, together[row], atol=2e-3 if trainable != "all" else 1e-5)
    assert not together[0].any(), "the padding article is the zero vector"


def test_the_untrained_text_part_is_the_normalised_mean_of_the_token_states(backbone):
    towers = TwoTower(backbone, RunConfig())
    features = ArticleFeatures.of(TABLE, backbone)
    states, mask = features.states.gather(np.array([1]))
    mean = states[0][mask[0]].mean(0)
    found = towers.news_tower(features.gather(np.array([1]))).numpy()[0]
    np.testing.assert_allclose(found[: len(mean)], mean / np.linalg.norm(mean), atol=1e-5)


def test_text_alone_equals_an_article_without_categories(backbone):
    towers = TwoTower(backbone, RunConfig())
    table = embed_articles(towers.encoder, TABLE)
    text = towers.encoder(tf.constant(["a long match on a hot day", "", "  "])).numpy()
    np.testing.assert_allclose(text[0], table[3], atol=2e-3)  # tables keep their states as float16
    assert not text[1:].any(), "an empty text is the zero vector"
    assert np.abs(table[1] - table[3]).max() > 0.01, "categories are part of the vector"


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
    from genre_tf.models.backbone import Categories

    return Categories.of(["sports", "food"], ["tennis", "cheese"])
