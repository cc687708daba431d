"""The ranker's losses: the mission's formula and its alternatives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import RankingConfig
from genre_tf.data.columns import ImpressionExample
from genre_tf.losses.clicks import (
    click_and_softmax_loss,
    click_loss,
    clicked_articles,
    contrastive_loss,
    softmax_loss,
    teacher_loss,
)
from genre_tf.training.ranking import ClickWeights, moves_probabilities

# One click; two of them; none; nothing else than clicks; and padding that would matter if it were looked at.
LOGITS = np.array([[0.3, -1.2, 9.0], [2.0, 0.5, 0.1], [1.0, -1.0, 0.4], [0.7, 0.2, 5.0]], np.float32)
LABELS = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]], np.float32)
MASK = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0]], bool)
WEIGHTS = np.array([[2.0, 1, 0], [1, 0.5, 0.7], [1, 1, 1], [0.8, 3.0, 0]], np.float32)


def _gradient(loss, values):
    """Of a loss with respect to values, float32, and the loss."""
    values = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(values)
        found = loss(values)
    return tape.gradient(found, values).numpy(), float(found)


def test_click_loss_is_the_binary_cross_entropy_over_real_candidates():
    p = 1 / (1 + np.exp(-LOGITS))
    each = -(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p))
    gradient, loss = _gradient(lambda logits: click_loss(logits, LABELS, MASK), LOGITS)
    np.testing.assert_allclose(loss, each[MASK].mean(), rtol=1e-5)
    np.testing.assert_array_equal(np.sign(gradient), np.where(MASK, 1 - 2 * LABELS, 0))


def test_smoothed_and_weighted_clicks_keep_the_mean_of_the_labels():
    rate = LABELS[MASK].mean()
    smooth = 0.8 * LABELS + 0.2 * rate
    assert smooth[MASK].mean() == pytest.approx(rate)
    p = 1 / (1 + np.exp(-LOGITS))
    clicked, passed = -smooth * np.log(p), -(1 - smooth) * np.log(1 - p)
    np.testing.assert_allclose(
        click_loss(LOGITS, LABELS, MASK, smoothing=0.2), (clicked + passed)[MASK].mean(), rtol=1e-5
    )
    clicked = -LABELS * WEIGHTS * np.log(p) - (1 - LABELS) * np.log(1 - p)
    np.testing.assert_allclose(click_loss(LOGITS, LABELS, MASK, WEIGHTS), clicked[MASK].mean(), rtol=1e-5)


@pytest.mark.parametrize(("weights", "smoothing"), [(None, 0.0), (WEIGHTS, 0.0), (WEIGHTS, 0.3)])
def test_softmax_loss_puts_each_click_beside_what_was_not_clicked(weights, smoothing):
    losses = []
    for row, (logits, labels, mask) in enumerate(zip(LOGITS, LABELS, MASK, strict=True)):
        others = logits[mask & (labels == 0)]
        for place in np.flatnonzero(mask & (labels == 1)) if len(others) else ():
            log_share = np.append(logits[place], others)
            log_share = log_share - np.log(np.exp(log_share).sum())
            target = np.full(len(log_share), smoothing / len(log_share))
            target[0] += 1 - smoothing
            losses.append(-(target @ log_share) * (1.0 if weights is None else weights[row, place]))
    assert len(losses) == 3
    gradient, loss = _gradient(lambda logits: softmax_loss(logits, LABELS, MASK, weights, smoothing), LOGITS)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    assert (gradient[:2][MASK[:2] & (LABELS[:2] == 1)] < 0).all()
    assert (gradient[:2][MASK[:2] & (LABELS[:2] == 0)] > 0).all()
    assert not gradient[2:].any() and not gradient[~MASK].any()
    np.testing.assert_allclose(gradient.sum(1), 0.0, atol=1e-7)  # an order: what moves all changes nothing


def test_a_batch_that_says_nothing_has_no_softmax_loss():
    gradient, loss = _gradient(lambda logits: softmax_loss(logits, LABELS[2:], MASK[2:]), LOGITS[2:])
    assert loss == 0.0 and not gradient.any()


def test_probabilities_and_order_weigh_alike_whatever_is_shown():
    """A click among two candidates or among many: the softmax counts once a click, as its own loss does."""
    both = click_and_softmax_loss(LOGITS, LABELS, MASK, WEIGHTS)
    rate = LABELS[MASK].mean()
    expected = click_loss(LOGITS, LABELS, MASK, WEIGHTS) + rate * softmax_loss(LOGITS, LABELS, MASK, WEIGHTS)
    np.testing.assert_allclose(both, expected, rtol=1e-6)
    widened = [np.pad(each, [[0, 0], [0, 5]]) for each in (LOGITS, LABELS, MASK, WEIGHTS)]
    np.testing.assert_allclose(click_and_softmax_loss(*widened), both, rtol=1e-6)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it():
    teacher = LOGITS[::-1].copy()
    wanted, p = (1 / (1 + np.exp(-each / 2.0)) for each in (teacher, LOGITS))
    each = -4.0 * (wanted * np.log(p) + (1 - wanted) * np.log(1 - p))
    gradient, loss = _gradient(lambda logits: teacher_loss(logits, teacher, MASK, 2.0), LOGITS)
    np.testing.assert_allclose(loss, each[MASK].mean(), rtol=1e-5)
    np.testing.assert_array_equal(np.sign(gradient), np.where(MASK, np.sign(LOGITS - teacher), 0))
    gradient, _ = _gradient(lambda logits: teacher_loss(logits, LOGITS, MASK, 2.0), LOGITS)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


# Articles 1 and 2 were clicked by the first reader, 2, 3 and 4 by the second, 5 by the third; 6 by nobody.
ARTICLES = np.array([0, 11, 12, 13, 14, 15, 16], np.int32)
CLICKED = np.array([[0, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0]], np.float32)


def _texts():
    texts = np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32)
    texts[0] = 0.0
    return texts / np.maximum(np.linalg.norm(texts, axis=1, keepdims=True), 1e-9)


def test_contrastive_loss_is_that_of_clicks_whose_classes_are_readers():
    texts, losses = _texts(), []
    alike = np.exp(texts @ texts.T / 0.5)
    for reader, clicks in enumerate(CLICKED):
        own = np.flatnonzero(clicks)
        foreign = [np.flatnonzero(row * (1 - clicks)) for at, row in enumerate(CLICKED) if at != reader]
        for anchor in own if len(own) > 1 else ():
            positives = own[own != anchor]
            total = alike[anchor, np.concatenate([positives, *foreign])].sum()
            losses.append(-np.log(alike[anchor, positives] / total).mean())
    assert len(losses) == 5
    loss = contrastive_loss(texts, ARTICLES, CLICKED, 0.5)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_clicks_of_one_reader_attract_and_those_of_two_repel():
    texts, clicked = _texts(), CLICKED[:2] * [[1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 1, 0, 0]]
    gradient, _ = _gradient(
        lambda each: contrastive_loss(each, ARTICLES, clicked.astype(np.float32), 0.5), texts
    )
    assert not gradient[[0, 5, 6]].any()
    before = texts @ texts.T
    moved = texts - 0.1 * gradient
    after = moved @ moved.T
    assert after[1, 2] > before[1, 2] and after[3, 4] > before[3, 4]
    assert after[1:3, 3:5].sum() < before[1:3, 3:5].sum()


def test_clicked_articles_are_the_history_and_the_clicks_and_never_the_padding():
    batch = {
        "articles": tf.constant([0, 7, 8, 9, 5]),
        "history": tf.constant([[1, 1, 2], [0, 0, 0]]),
        "candidates": tf.constant([[3, 2, 4], [4, 0, 0]]),
        "labels": tf.constant([[1.0, 0, 0], [1.0, 1.0, 1.0]]),
        "mask": tf.constant([[True, True, True], [True, True, False]]),
    }
    np.testing.assert_array_equal(clicked_articles(batch), [[0, 1, 1, 1, 0], [0, 0, 0, 0, 1]])


def test_xla_compiles_every_loss_with_its_gradient_to_the_same_values():
    articles = tf.constant(ARTICLES)
    batch = {
        "articles": articles,
        "history": tf.constant([[1, 2], [3, 0], [0, 0], [4, 6]]),
        "candidates": tf.constant([[3, 2, 4], [4, 1, 5], [2, 6, 1], [5, 1, 0]]),
        "labels": tf.constant(LABELS),
        "mask": tf.constant(MASK),
    }

    def gradients(logits, texts):
        with tf.GradientTape() as tape:
            tape.watch([logits, texts])
            loss = tf.add_n(
                [
                    click_loss(logits, LABELS, MASK, WEIGHTS, 0.1),
                    softmax_loss(logits, LABELS, MASK, WEIGHTS, 0.1),
                    click_and_softmax_loss(logits, LABELS, MASK, WEIGHTS, 0.1),
                    teacher_loss(logits, LOGITS[::-1], MASK, 2.0),
                    contrastive_loss(texts, articles, clicked_articles(batch), 0.5),
                ]
            )
        return [loss, *tape.gradient(loss, [logits, texts])]

    inputs = tf.constant(LOGITS), tf.constant(_texts())
    compiled = tf.function(gradients, jit_compile=True, autograph=False)(*inputs)
    for found, expected in zip(compiled, gradients(*inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_two_replicas_have_together_the_losses_and_gradients_of_one():
    script = Path(__file__).with_name("losses_of_replicas.py")
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-3000:]
    answers = json.loads(found.stdout.splitlines()[-1])
    assert set(answers) == {"click", "softmax", "click+softmax", "teacher", "retrieval", "contrastive"}
    for one, two in answers.values():
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)


def _example(candidates, labels):
    return ImpressionExample(
        impression=0,
        user_id="U",
        time_hours=0.0,
        history=np.array([], np.int32),
        candidates=np.array(candidates, np.int32),
        labels=np.array(labels, np.float32),
        counters=np.zeros((len(labels), 9), np.float32),
    )


EXAMPLES = [_example([1, 2, 3], [1, 0, 0])] * 4 + [_example([4, 1, 2], [0, 0, 1])]


def test_click_weights_fall_with_the_clicks_on_the_article():
    weights = ClickWeights(EXAMPLES, RankingConfig(popularity_debias=0.5))
    assert [each.shape for each in weights] == [(3, 2)] * 5
    assert all((each[:, 1] == 1.0).all() for each in weights)  # with counters popularity is told by them
    popular, rare = weights[0][0, 0], weights[4][2, 0]
    assert rare / popular == pytest.approx(2.0)  # 4 clicks against 1, square root
    assert popular * 4 + rare == pytest.approx(5.0)
    assert all((row[one.labels == 0] == 1.0).all() for row, one in zip(weights, EXAMPLES, strict=True))


def test_an_impression_without_a_click_changes_no_weight_of_a_click():
    settings = RankingConfig(popularity_debias=0.5, position_propensities=(0.8, 0.4))
    *others, unclicked = ClickWeights([*EXAMPLES, _example([4, 5], [0, 0])], settings)
    assert (unclicked == 1.0).all()
    np.testing.assert_array_equal(np.concatenate(others), np.concatenate(ClickWeights(EXAMPLES, settings)))


def test_click_weights_rise_with_the_place_and_have_a_limit():
    by_place = ClickWeights(EXAMPLES, RankingConfig(popularity_debias=0.0, position_propensities=(0.8, 0.4)))
    np.testing.assert_allclose(by_place[4][2] / by_place[0][0], [2.0, 2.0], rtol=1e-6)
    both = RankingConfig(popularity_debias=0.5, position_propensities=(0.8, 0.4))
    both_weights = ClickWeights(EXAMPLES, both)
    np.testing.assert_allclose(both_weights[4][2] / both_weights[0][0], [4.0, 2.0], rtol=1e-6)
    many = [_example([1, 2], [1, 0])] * 400 + [_example([1, 2], [0, 1])]
    extreme = ClickWeights(many, RankingConfig(popularity_debias=0.0, position_propensities=(1.0, 0.001)))
    clicks = np.array([row[one.labels > 0][0, 0] for row, one in zip(extreme, many, strict=True)])
    assert clicks.max() == pytest.approx(10 * clicks.min()) and clicks.mean() == pytest.approx(1.0)


def test_a_click_weighs_in_the_loss_as_much_as_its_signals_say():
    logits, mask = tf.constant([[0.3, -1.2, 9.0]]), tf.constant([[True, True, False]])
    labels = tf.constant([[1.0, 0.0, 0.0]])
    each = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits).numpy()[0]
    found = click_loss(logits, labels, mask, tf.constant([[4.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found, (4 * each[0] + each[1]) / 2, rtol=1e-6)
    ones = click_loss(logits, labels, mask, tf.ones([1, 3]))
    assert ones.numpy() == click_loss(logits, labels, mask).numpy(), "bit for bit"


@pytest.mark.parametrize(
    ("settings", "signals", "moved"),
    [
        ({"objective": "click"}, False, False),
        ({"objective": "click", "negatives": 4}, False, True),
        ({"objective": "click"}, True, True),
        ({"objective": "softmax"}, False, True),
        ({}, False, True),
    ],
)
def test_probabilities_are_calibrated_where_the_training_moves_their_level(settings, signals, moved):
    columns = np.zeros(2, np.int32), np.array([3, 4], np.int32), np.array([1, 0], np.float32)
    weights = np.array([2.0, 1.0], np.float32) if signals else None
    example = ImpressionExample(0, "U", 0.0, *columns, np.zeros((2, 9), np.float32), label_weights=weights)
    assert moves_probabilities(RankingConfig(**settings), [example]) is moved
