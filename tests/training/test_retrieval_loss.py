"""The retrieval loss: a softmax over the pool of the moment, corrected for the draw, of weighted clicks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from genre_tf.models.two_tower import DRAWN, TwoTower
from genre_tf.training.retrieval import RetrievalTrainer

random = np.random.default_rng(5)
LOGITS = random.normal(size=(3, 5)).astype(np.float32)
PROBABILITY = random.uniform(0.02, 1.0, (3, 5)).astype(np.float32)


class Towers(keras.Model):
    """Logits as they are given, in place of two towers."""

    corrected = TwoTower.corrected

    def call(self, batch, training=None):
        return batch["logits"]


def batch_of(logits, probability=None, mask=None, weights=None):
    logits = tf.convert_to_tensor(logits, tf.float32)
    batch = {
        "logits": logits,
        "labels": tf.one_hot(tf.zeros(logits.shape[0], tf.int32), logits.shape[1]),
        "mask": tf.ones_like(logits, tf.bool) if mask is None else tf.constant(mask),
    }
    if probability is not None:
        batch[DRAWN] = tf.constant(probability, tf.float32)
    if weights is not None:
        batch["label_weights"] = tf.pad(
            tf.constant(weights)[:, None], [[0, 0], [0, logits.shape[1] - 1]], constant_values=9.0
        )
    return batch


def loss_of(*arguments, **options):
    return RetrievalTrainer(Towers()).loss_of(batch_of(*arguments, **options), True).numpy()


def test_the_loss_is_the_softmax_of_the_click_among_the_candidates_each_for_those_it_stands_for():
    standing = np.exp(LOGITS) / PROBABILITY
    expected = -np.log(standing[:, 0] / standing.sum(1)).mean()
    np.testing.assert_allclose(loss_of(LOGITS, PROBABILITY), expected, rtol=1e-5)


def test_a_candidate_that_is_drawn_with_probability_p_counts_as_1_over_p_candidates():
    """Ten articles alike, of which two were drawn, push as much as all ten."""
    drawn = loss_of([[1.0, 0.5, 0.5]], [[1.0, 0.2, 0.2]])
    np.testing.assert_allclose(drawn, loss_of([[1.0] + [0.5] * 10]), rtol=1e-5)


def test_what_is_drawn_often_is_pushed_away_less_after_the_correction():
    logits = tf.Variable([[0.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = RetrievalTrainer(Towers()).loss_of(batch_of(logits, [[1.0, 0.5, 0.01]]), True)
    pulled, often, rarely = tape.gradient(loss, logits).numpy()[0]
    assert pulled < 0 < often < rarely
    np.testing.assert_allclose(rarely / often, 50, rtol=1e-4)


def test_padding_counts_for_nothing_and_leaves_the_gradient_finite():
    wide, chance = (np.pad(each, ((0, 0), (0, 2))) for each in (LOGITS, PROBABILITY))
    mask = np.arange(7) < [[5]] * 3
    np.testing.assert_allclose(loss_of(wide, chance, mask), loss_of(LOGITS, PROBABILITY), rtol=1e-6)
    logits = tf.Variable(wide)
    with tf.GradientTape() as tape:
        loss = RetrievalTrainer(Towers()).loss_of(batch_of(logits, chance, mask), True)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient).all() and not gradient[:, 5:].any()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_replica_without_rows_adds_nothing(monkeypatch, weighted):
    monkeypatch.setattr("genre_tf.losses.clicks.sum_over_replicas", lambda own: own + 3.0)
    nothing = tf.Variable(np.zeros((0, 0), np.float32))
    batch = batch_of(nothing, np.zeros((0, 0)), np.zeros((0, 0), bool))
    if weighted:
        batch["label_weights"] = tf.zeros([0, 0])
    with tf.GradientTape() as tape:
        loss = tf.function(RetrievalTrainer(Towers()).loss_of)(batch | {"logits": nothing}, True)
    assert loss.numpy() == 0 and tape.gradient(loss, nothing).shape == (0, 0)


def test_a_row_weighs_as_much_as_its_click_and_its_other_candidates_nothing():
    rows = np.array([loss_of(LOGITS[[row]], PROBABILITY[[row]]) for row in range(3)])
    ones = loss_of(LOGITS, PROBABILITY, weights=[1.0, 1.0, 1.0])
    assert ones == loss_of(LOGITS, PROBABILITY), "bit for bit"
    weights = np.array([4.0, 0.5, 1.0], np.float32)
    expected = (rows * weights).sum() / weights.sum()
    np.testing.assert_allclose(loss_of(LOGITS, PROBABILITY, weights=weights), expected, rtol=1e-5)
