"""What is read now: features of live counters, and the bias that they give an article."""

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.data.counters import COUNTERS
from genre_tf.models.counter_heads import CounterHead, MomentBias, PoolHead, moment_features

RANDOM = np.random.default_rng(1)
SEEN = RANDOM.uniform(0, 50, (2, 5, len(COUNTERS))).astype(np.float32)
VIEWS = [place for place, name in enumerate(COUNTERS) if name.startswith("views")]


def new_bias(view_counters: bool) -> MomentBias:
    bias = MomentBias(view_counters)
    bias.assign(RANDOM.normal(size=bias.kernel.shape))
    return bias


def with_other_views(counters: np.ndarray) -> np.ndarray:
    other = counters.copy()
    other[..., VIEWS] = RANDOM.uniform(0, 1e4, other[..., VIEWS].shape)
    return other


@pytest.mark.parametrize("view_counters", [True, False])
def test_the_bias_of_an_article_that_nobody_knows_is_0_whatever_was_learned(view_counters: bool) -> None:
    bias = new_bias(view_counters)
    nobody, somebody = bias(tf.zeros([3, len(COUNTERS)])).numpy(), bias(SEEN).numpy()
    assert not nobody.any() and np.abs(somebody).min() > 0
    assert somebody.shape == (2, 5)


def test_an_untrained_bias_says_nothing() -> None:
    assert not MomentBias(True)(SEEN).numpy().any()


def test_weights_act_on_the_features_as_they_are() -> None:
    bias = MomentBias(True)
    weights = RANDOM.normal(size=bias.kernel.shape)
    bias.assign(weights)
    features = moment_features(SEEN, True).numpy() - moment_features(np.zeros_like(SEEN), True).numpy()
    np.testing.assert_allclose(bias(SEEN), features @ weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("view_counters", [True, False])
@pytest.mark.parametrize("value", [0.0, -5.0, 1e-30, 1e12, float(np.finfo(np.float32).max)])
def test_features_and_bias_are_finite(view_counters: bool, value: float) -> None:
    for place in range(len(COUNTERS)):
        counters = np.zeros((1, len(COUNTERS)), np.float32)
        counters[0, place] = value
        assert np.isfinite(moment_features(counters, view_counters)).all(), COUNTERS[place]
        assert np.isfinite(new_bias(view_counters)(counters)).all()
    everything = np.full((1, len(COUNTERS)), value, np.float32)
    assert np.isfinite(moment_features(everything, view_counters)).all()


def test_negative_counters_count_as_0() -> None:
    np.testing.assert_array_equal(moment_features(-SEEN, True), moment_features(0 * SEEN, True))


def test_without_view_counters_views_change_nothing() -> None:
    other = with_other_views(SEEN)
    blind, seeing = new_bias(False), new_bias(True)
    np.testing.assert_array_equal(blind(SEEN), blind(other))
    assert np.abs(seeing(SEEN) - seeing(other)).min() > 1e-3


def test_the_pool_head_knows_views_only_where_it_may() -> None:
    alike, other = tf.constant(RANDOM.normal(size=(2, 5, 4)), tf.float32), with_other_views(SEEN)
    for view_counters in (False, True):
        head = PoolHead(4, view_counters)
        start = head(alike, SEEN).numpy()
        np.testing.assert_allclose(start, alike.numpy().mean(-1), rtol=1e-5, atol=1e-6)
        head.assign(RANDOM.normal(size=head.kernel.shape).astype(np.float32), 0.5)
        assert np.array_equal(head(alike, SEEN), head(alike, other)) == (not view_counters)
        features = head.features(alike, SEEN).numpy()
        np.testing.assert_allclose(
            head(alike, SEEN), features @ head.kernel.numpy() + 0.5, rtol=1e-4, atol=1e-4
        )


def test_a_logit_of_the_pool_head_does_not_depend_on_what_else_was_retrieved() -> None:
    head = PoolHead(4, True)
    head.assign(RANDOM.normal(size=head.kernel.shape).astype(np.float32), 0.1)
    alike = tf.constant(RANDOM.normal(size=(2, 5, 4)), tf.float32)
    np.testing.assert_allclose(head(alike[:, 2:3], SEEN[:, 2:3])[:, 0], head(alike, SEEN)[:, 2], rtol=1e-5)


def test_the_counter_head_gives_the_same_for_3_columns_as_for_all() -> None:
    head = CounterHead(4, -2.0)
    head.build()
    alike, mask = tf.constant(RANDOM.normal(size=(2, 5, 4)), tf.float32), tf.ones([2, 5], tf.bool)
    assert COUNTERS[:3] == ("clicks", "views", "age_hours")
    np.testing.assert_array_equal(head(alike, SEEN[..., :3], mask), head(alike, SEEN, mask))
