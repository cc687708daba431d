"""The losses: the mission's formula, the sign of logQ, no accidental hits."""

import numpy as np
import tensorflow as tf

from genre_tf.training.ranking import click_loss
from genre_tf.training.retrieval import RetrievalTrainer, draw_probability


def test_click_loss_is_the_binary_cross_entropy_over_real_candidates():
    logits = tf.constant([[0.3, -1.2, 9.0], [2.0, 0.5, 0.1]])
    labels = tf.constant([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    mask = tf.constant([[True, True, False], [True, True, True]])
    p = 1 / (1 + np.exp(-logits.numpy()))
    each = -(labels.numpy() * np.log(p) + (1 - labels.numpy()) * np.log(1 - p))
    np.testing.assert_allclose(click_loss(logits, labels, mask), each[mask.numpy()].mean(), rtol=1e-5)


def test_a_click_weighs_in_the_loss_as_much_as_its_signals_say():
    logits, mask = tf.constant([[0.3, -1.2, 9.0]]), tf.constant([[True, True, False]])
    labels = tf.constant([[1.0, 0.0, 0.0]])
    each = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits).numpy()[0]
    found = click_loss(logits, labels, mask, tf.constant([[4.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found, (4 * each[0] + each[1]) / 5, rtol=1e-6)
    ones = click_loss(logits, labels, mask, tf.ones([1, 3]))
    assert ones.numpy() == click_loss(logits, labels, mask).numpy(), "bit for bit"


def test_a_row_of_retrieval_weighs_as_much_as_its_click():
    import keras

    readers, candidates = np.eye(2, dtype=np.float32), np.ones((2, 2, 2), np.float32)
    candidates[:, 0] = np.eye(2)

    class Towers(keras.Model):
        def call(self, batch, training=None):
            return tf.gather(readers, batch["rows"]), tf.gather(candidates, batch["rows"])

    def loss(weights=None):
        rows = tf.constant([0, 1])
        batch = {"rows": rows, "articles": tf.range(5), "candidates": tf.gather([[1, 2], [3, 4]], rows)}
        if weights is not None:
            batch["label_weights"] = tf.stack([tf.constant(weights), tf.ones(len(weights))], 1)
        return RetrievalTrainer(Towers(), 0.5, None).loss_of(batch, True).numpy()

    assert loss([1.0, 1.0]) == loss(), "bit for bit"
    readers[1] = 0.3
    heavy, light = loss([4.0, 1.0]), loss([1.0, 4.0])
    np.testing.assert_allclose(heavy + light, 2 * loss(), rtol=1e-6)
    assert heavy < light, "the first row's click is found, the second's is not"


def _gradient_on_negatives(probability, articles=(1, 2, 3)):
    """Gradient of the loss with respect to each candidate's score; one reader, one click, two negatives."""
    import keras

    candidates = tf.Variable(np.zeros((1, 3, 2), np.float32))

    class Towers(keras.Model):
        def call(self, batch, training=None):
            return tf.ones([1, 2]), candidates

    trainer = RetrievalTrainer(Towers(), 1.0, probability)
    batch = {"articles": tf.range(10), "candidates": tf.constant([articles])}
    with tf.GradientTape() as tape:
        loss = trainer.loss_of(batch, True)
    return tape.gradient(loss, candidates).numpy().sum(-1)[0]


def test_a_popular_negative_is_pushed_away_less_after_the_correction():
    probability = np.full(10, 0.01, np.float32)
    probability[2] = 0.5  # article 2 is drawn far more often than article 3
    pushed = _gradient_on_negatives(probability)
    assert 0 < pushed[1] < pushed[2]
    even = _gradient_on_negatives(None)
    np.testing.assert_allclose(even[1], even[2], rtol=1e-5)


def test_the_clicked_article_is_never_its_own_negative():
    pushed = _gradient_on_negatives(None, articles=(1, 1, 3))
    np.testing.assert_allclose(pushed[1], 0.0, atol=1e-6)
    assert pushed[2] > 0


def test_draw_probability_counts_clicks_and_the_expected_share_of_negatives():
    from genre_tf.data.examples import ImpressionExample

    example = ImpressionExample(
        impression=0,
        user_id="U",
        time_hours=0.0,
        history=np.array([], np.int32),
        candidates=np.array([1, 2, 3], np.int32),
        labels=np.array([1, 0, 0], np.float32),
        counters=np.zeros((3, 3), np.float32),
    )
    found = draw_probability([example] * 10, 5, negatives=4)
    np.testing.assert_allclose(found[1:4], [10 / 50, 20 / 50, 20 / 50])
    assert (found > 0).all()
