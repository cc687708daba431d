"""The retrieval loss: a corrected softmax, the sign of logQ, no accidental hits, weighted clicks."""

import keras
import numpy as np
import tensorflow as tf

from genre_tf.data.examples import ImpressionExample
from genre_tf.training.retrieval import RetrievalTrainer, draw_probability


def test_a_row_of_retrieval_weighs_as_much_as_its_click():
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
    candidates = tf.Variable(np.zeros((1, 3, 2), np.float32))

    class Towers(keras.Model):
        def call(self, batch, training=None):
            return tf.ones([1, 2]), candidates

    trainer = RetrievalTrainer(Towers(), 1.0, probability)
    batch = {"articles": tf.range(10), "candidates": tf.constant([articles])}
    with tf.GradientTape() as tape:
        loss = trainer.loss_of(batch, True)
    return tape.gradient(loss, candidates).numpy().sum(-1)[0]


def test_retrieval_loss_is_the_corrected_softmax_over_the_batch_and_shown_negatives():
    """Two readers; article 5 is the click of one and a shown negative of the other, 7 is drawn twice."""
    readers, candidates = (np.random.default_rng(5).normal(size=size) for size in ((2, 4), (2, 3, 4)))
    probability = np.random.default_rng(6).uniform(0.01, 0.3, 10).astype(np.float32)
    drawn = np.array([[5, 7, 8], [6, 5, 7]])

    class Towers(keras.Model):
        def call(self, batch, training=None):
            return tf.constant(readers, tf.float32), batch["vectors"]

    trainer = RetrievalTrainer(Towers(), 0.5, probability)
    batch = {"articles": tf.range(10), "candidates": tf.constant(drawn)}
    losses = []
    for reader, own in zip(readers, drawn, strict=True):
        scores = candidates @ reader / 0.5 - np.log(probability[drawn])  # [2, 3]
        click = scores[:, 0][drawn[:, 0] == own[0]]
        against = scores[drawn != own[0]]
        losses.append(np.log(np.exp(click).sum() + np.exp(against).sum()) - click[0])
    vectors = tf.constant(candidates, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        loss = trainer.loss_of({**batch, "vectors": vectors}, True)
    gradient = tape.gradient(loss, vectors).numpy()
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    assert (gradient[0, 0] @ readers[0]) < 0 < (gradient[0, 2] @ readers[0]) + (gradient[0, 2] @ readers[1])
    # The second reader was shown 5 and passed it by: pushed away from it, though not from the first reader's.
    np.testing.assert_allclose(np.cross(gradient[1, 1][:3], readers[1][:3]), 0.0, atol=1e-6)
    assert gradient[1, 1] @ readers[1] > 0


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
    assert pushed[0] < 0 < pushed[2]


def test_draw_probability_counts_clicks_and_the_expected_share_of_negatives():
    example = ImpressionExample(
        impression=0,
        user_id="U1",
        time_hours=0.0,
        history=np.zeros(0, np.int32),
        candidates=np.array([1, 2, 3], np.int32),
        labels=np.array([1, 0, 0], np.float32),
        counters=np.zeros((3, 3), np.float32),
    )
    found = draw_probability([example] * 10, 5, negatives=4)
    np.testing.assert_allclose(found[1:4], [10 / 50, 20 / 50, 20 / 50])
    assert (found > 0).all()
