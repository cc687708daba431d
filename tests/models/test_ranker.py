"""The ranker: padding, missing history, counters."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.models.checkpoint import ranker_of
from genre_tf.models.counter_heads import counter_features


@pytest.fixture
def ranker(backbone):
    model = ranker_of(backbone, RunConfig(), click_rate=0.1)
    generator = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(weight + generator.normal(0, 0.1, weight.shape))
    return model


def _vectors(ranker, *shape, seed=0):
    return tf.random.stateless_normal([*shape, ranker.news.dimension], [seed, 1]) * 0.1


def test_padding_changes_no_logit(ranker):
    history, candidates = _vectors(ranker, 1, 3), _vectors(ranker, 1, 4, seed=1)
    counters = tf.random.stateless_uniform([1, 4, 3], [4, 2]) * 20
    plain = ranker.click_logits(
        history, tf.ones([1, 3], tf.bool), candidates, tf.ones([1, 4], tf.bool), counters
    ).numpy()
    wider = ranker.click_logits(
        tf.concat([history, _vectors(ranker, 1, 2, seed=5)], 1),
        tf.constant([[True] * 3 + [False] * 2]),
        tf.concat([candidates, _vectors(ranker, 1, 3, seed=6)], 1),
        tf.constant([[True] * 4 + [False] * 3]),
        tf.concat([counters, 99 * tf.ones([1, 3, 3])], 1),
    ).numpy()
    np.testing.assert_allclose(plain[0], wider[0, :4], atol=1e-5)


def test_attention_sums_to_one_over_the_real_clicks(ranker):
    mask = tf.constant([[True, True, False]])
    weights, _ = ranker.attention(_vectors(ranker, 1, 3), mask, _vectors(ranker, 1, 4, seed=1))
    np.testing.assert_allclose(weights.numpy().sum(-1), 1.0, atol=1e-6)
    assert not weights.numpy()[..., 2].any()


def test_a_click_that_weighs_two_is_attended_to_as_two_of_it(ranker):
    ranker.recency_bias.assign(tf.zeros_like(ranker.recency_bias))
    history, candidates = _vectors(ranker, 2, 3), _vectors(ranker, 2, 4, seed=1)
    mask = tf.constant([[True, True, True], [False, False, False]])
    plain = ranker.similarities(history, mask, candidates).numpy()
    ones = ranker.similarities(history, mask, candidates, tf.ones([2, 3])).numpy()
    assert np.array_equal(plain, ones), "bit for bit"
    heavy, _ = ranker.attention(history, mask, candidates, tf.constant([[2.0, 1, 1]] * 2))
    twice, _ = ranker.attention(
        tf.concat([history[:, :1], history], 1), tf.concat([mask[:, :1], mask], 1), candidates
    )
    np.testing.assert_allclose(heavy[0, :, 0], twice[0, :, 0] + twice[0, :, 1], rtol=1e-5)
    np.testing.assert_allclose(heavy[0, :, 1:], twice[0, :, 2:], rtol=1e-5)
    weighted = ranker.similarities(history, mask, candidates, tf.constant([[2.0, 1, 1]] * 2)).numpy()
    assert np.abs(weighted[0, :, 0] - plain[0, :, 0]).max() > 1e-6, "attended similarity follows"
    assert np.array_equal(weighted[1], plain[1]), "a reader without history has none to weigh"


def test_a_reader_without_history_gets_finite_logits_that_tell_articles_apart(ranker):
    for clicks in (0, 2):
        logits = ranker.click_logits(
            tf.zeros([1, clicks, ranker.news.dimension]),
            tf.zeros([1, clicks], tf.bool),
            _vectors(ranker, 1, 4, seed=1),
            tf.ones([1, 4], tf.bool),
        ).numpy()
        assert np.isfinite(logits).all() and len(set(logits[0].tolist())) == 4


def test_counters_do_not_reach_the_logit_without_them(ranker):
    history, mask = _vectors(ranker, 1, 3), tf.ones([1, 3], tf.bool)
    candidates, real = _vectors(ranker, 1, 4, seed=1), tf.ones([1, 4], tf.bool)
    with tf.GradientTape() as tape:
        counted = ranker.click_logits(history, mask, candidates, real, 5 * tf.ones([1, 4, 3]))
        loss = tf.reduce_sum(counted**2)
    gradient = tape.gradient(loss, ranker.attractiveness.kernel.value)
    assert gradient is None or not tf.convert_to_tensor(gradient).numpy().any()


def test_more_clicks_among_equals_raise_the_logit(backbone):
    model = ranker_of(backbone, RunConfig())
    candidates = tf.tile(_vectors(model, 1, 1), [1, 3, 1])
    counters = tf.constant([[[0.0, 100, 1], [5, 100, 1], [50, 100, 1]]])
    logits = model.click_logits(
        _vectors(model, 1, 2), tf.ones([1, 2], tf.bool), candidates, tf.ones([1, 3], tf.bool), counters
    ).numpy()[0]
    assert logits[0] < logits[1] < logits[2]


def test_counters_of_a_lone_candidate_say_nothing():
    found = counter_features(tf.constant([[[5.0, 10, 3]]]), tf.constant([[True]])).numpy()
    np.testing.assert_allclose(found, 0.0)


@pytest.mark.parametrize("value", [0.0, -5.0, 1e12])
def test_counter_features_are_finite(value):
    counters = tf.constant([[[value] * 3, [1.0, 2.0, 3.0]]])
    assert np.isfinite(counter_features(counters, tf.constant([[True, True]])).numpy()).all()
