"""Losses of clicks: single ones, against other candidates or a pool, from a teacher, contrasts of readers.

Each loss is a mean over the batch, float32 []. With several replicas it is this replica's share of the mean
over all: sums cover its own rows, counts cover all rows. The first four take logits float32 [B, C], labels
float32 [B, C] (1 for a click), mask bool [B, C] of real candidates, and weights of clicks float32 [B, C]
(None: 1).
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from genre_tf.losses.replicas import rows_of_replicas, sum_over_replicas

_LOWEST = -1e9  # excludes a logit from a softmax and keeps its gradient finite


def click_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    mask: tf.Tensor,
    weights: tf.Tensor | None = None,
    smoothing: float = 0.0,
) -> tf.Tensor:
    """Binary cross-entropy, -[y log p + (1 - y) log(1 - p)], mean over real candidates.

    A share `smoothing` of each label is replaced by the click rate of the batch, not by one half, so that the
    mean label and the mean click probability do not change.

    Source: Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", 2017
    (smoothing towards the frequency of each label).
    """
    real = _count(mask)
    if smoothing:
        labels = labels + smoothing * (sum_over_replicas(_sum(labels, mask)) / real - labels)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    if weights is not None:
        losses += (weights - 1.0) * labels * tf.math.softplus(-logits)
    return _sum(losses, mask) / real


def softmax_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    mask: tf.Tensor,
    weights: tf.Tensor | None = None,
    smoothing: float = 0.0,
) -> tf.Tensor:
    """Softmax cross-entropy of each click against the candidates of its row that were not clicked.

    Other clicks of the row are left out. A row without a click, or with nothing else, is ignored. The loss
    only compares candidates of one row, so it learns an order but no probabilities. A share `smoothing` of
    the target is spread evenly over the softmax.

    Source: Bruch et al., "An Analysis of the Softmax Cost Function for Learning to Rank", ICTIR 2019; with
    drawn negatives Wu et al., "NPA", KDD 2019.
    """
    clicked, passed = mask & (labels > 0), mask & (labels <= 0)
    others = tf.reduce_logsumexp(tf.where(passed, logits, _LOWEST), axis=1, keepdims=True)  # [batch, 1]
    losses = tf.math.softplus(others - logits)  # log(e^click + sum e^other) - click
    if smoothing:
        size = 1.0 + tf.reduce_sum(tf.cast(passed, tf.float32), axis=1, keepdims=True)
        total = logits + tf.reduce_sum(tf.where(passed, logits, 0.0), axis=1, keepdims=True)
        losses += smoothing * (logits - total / size)
    if weights is not None:
        losses *= weights
    told = clicked & tf.reduce_any(passed, axis=1, keepdims=True)
    return _sum(losses, told) / tf.maximum(_count(told), 1.0)


def click_and_softmax_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    mask: tf.Tensor,
    weights: tf.Tensor | None = None,
    smoothing: float = 0.0,
) -> tf.Tensor:
    """Probabilities and order together: the click loss plus the softmax loss times clicks per candidate.

    So both losses give an impression about the same weight.
    """
    clicks = sum_over_replicas(_sum(tf.cast(labels > 0, tf.float32), mask)) / tf.maximum(_count(mask), 1.0)
    order = softmax_loss(logits, labels, mask, weights, smoothing)
    return click_loss(logits, labels, mask, weights, smoothing) + clicks * order


def sampled_softmax_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    mask: tf.Tensor,
    weights: tf.Tensor | None = None,
    smoothing: float = 0.0,
) -> tf.Tensor:
    """Softmax cross-entropy of the one click of each row against its other candidates, mean over rows.

    From each logit the log of the probability that the candidate was drawn is subtracted before (for
    negatives of the batch by `TwoTower.corrected`), so that one drawn with probability 1/50 stands for 50
    articles of the pool. A row weighs as its click. Smoothing is not supported.
    """
    logits = tf.where(mask, logits, _LOWEST)
    # TensorFlow's own op fails on a replica without rows, which has no candidates either.
    losses = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_sum(labels * logits, axis=1)  # [rows]
    of_rows = tf.ones_like(losses) if weights is None else tf.reduce_sum(weights * labels, axis=1)
    return tf.reduce_sum(losses * of_rows) / sum_over_replicas(tf.reduce_sum(of_rows))


def teacher_loss(logits: tf.Tensor, teacher: tf.Tensor, mask: tf.Tensor, temperature: float) -> tf.Tensor:
    """Cross-entropy with a teacher's click probabilities, both softened by a temperature, times its square.

    Both logits, float32 [B, C], are divided by the temperature; its square keeps the scale of the gradient.
    Each candidate has a probability of its own, so a student learns probabilities and not just an order. It
    is minimal, but not zero, where the logits equal the teacher's.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    wanted = tf.sigmoid(teacher / temperature)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits / temperature)
    return temperature**2 * _sum(losses, mask) / _count(mask)


def contrastive_loss(
    texts: tf.Tensor, articles: tf.Tensor, clicked: tf.Tensor, temperature: float
) -> tf.Tensor:
    """Supervised contrastive loss: readers are the classes, their clicks the samples.

    Each click i of reader b is pulled towards b's other clicks P and pushed away from the clicks of other
    readers: `log(sum over P of e^s + sum over others' clicks of e^s) - mean over P of s`, where s is the
    cosine with i divided by the temperature. A click of another reader is not pushed away if b clicked that
    article too. All clicks share one product of articles by articles. The mean is over the clicks of readers
    with at least two.

    Args:
        texts: float32 [U, D], text vectors of the batch's articles, of length one or zero.
        articles: int32 [U], table rows of the articles.
        clicked: float32 [B, U], 1 where the reader clicked the article; 0 for the padding article.
        temperature: divides the cosines.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2.
    """
    every_text, every_article = rows_of_replicas(texts), rows_of_replicas(articles)  # [all, ...]
    times_clicked = rows_of_replicas(tf.reduce_sum(clicked, axis=0))  # [all]
    same = tf.cast(articles[:, None] == every_article[None, :], tf.float32)  # [articles, all]
    of_others = times_clicked * (1.0 - tf.minimum(clicked @ same, 1.0))  # [batch, all]
    # A cosine is at most one, so nothing overflows. The rows of this replica come first.
    alike = tf.exp((tf.matmul(texts, every_text, transpose_b=True) - 1.0) / temperature)  # [articles, all]
    count = tf.shape(texts)[0]
    beside = alike[:, :count] * (1.0 - tf.eye(count))  # [articles, articles]
    compared = tf.matmul(beside, clicked, transpose_b=True) + tf.matmul(alike, of_others, transpose_b=True)
    own = tf.matmul(texts, clicked @ texts, transpose_b=True) - tf.reduce_sum(texts**2, 1, keepdims=True)
    clicks = tf.reduce_sum(clicked, axis=1)  # [batch]
    drawn = own / tf.maximum(clicks - 1.0, 1.0)  # [articles, batch], mean cosine with the other clicks
    losses = tf.math.log(tf.maximum(compared, 1e-30)) + (1.0 - drawn) / temperature
    told = tf.transpose(clicked) * tf.cast(clicks > 1.0, tf.float32)  # [articles, batch]
    return tf.reduce_sum(told * losses) / tf.maximum(sum_over_replicas(tf.reduce_sum(told)), 1.0)


def clicked_articles(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Which articles of a batch each reader clicked, earlier or now: float32 [B, U]; 0 for padding."""
    places = tf.concat([batch["history"], batch["candidates"]], axis=1)  # [batch, clicks]
    now = batch["mask"] & (batch["labels"] > 0)
    clicks = tf.cast(tf.concat([batch["history"] > 0, now & (batch["candidates"] > 0)], axis=1), tf.float32)
    rows = tf.broadcast_to(tf.range(tf.shape(places)[0])[:, None], tf.shape(places))
    size = [tf.shape(places)[0], tf.shape(batch["articles"])[0]]
    return tf.minimum(tf.scatter_nd(tf.stack([rows, places], axis=-1), clicks, size), 1.0)


def _sum(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.where(mask, values, 0.0))


def _count(mask: tf.Tensor) -> tf.Tensor:
    return sum_over_replicas(tf.reduce_sum(tf.cast(mask, tf.float32)))


class _LossOfImpressions(keras.losses.Loss):
    """A mean over all rows, those of other replicas included, not a mean of the replicas' means."""

    _loss: Callable[..., tf.Tensor]

    def __init__(self, label_smoothing: float = 0.0, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.label_smoothing = label_smoothing

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        """This replica's share of the mean loss, float32 [], of logits [B, C] and labels [B, C].

        Labels are 1 for a click, 0 for an article shown without one, -1 for padding. `sample_weight`, float32
        [B, C], weighs clicks; None: 1.
        """
        labels, logits = (tf.cast(values, tf.float32) for values in (y_true, y_pred))
        mask = labels >= 0
        return type(self)._loss(logits, tf.maximum(labels, 0.0), mask, sample_weight, self.label_smoothing)

    def get_config(self) -> dict[str, Any]:
        """The arguments of this loss."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable("genre_tf")
class ClickCrossEntropy(_LossOfImpressions):
    """Binary cross-entropy of clicks, -[y log p + (1 - y) log(1 - p)], mean over shown articles.

    Args:
        label_smoothing: share of each label to replace by the click rate of the batch.

    Example:
        >>> loss = genre_tf.losses.ClickCrossEntropy()
        >>> round(float(loss([[1.0, 0.0, -1.0]], [[0.0, 0.0, 9.0]])), 4)
        0.6931
    """

    _loss = staticmethod(click_loss)


@keras.saving.register_keras_serializable("genre_tf")
class ClickSoftmax(_LossOfImpressions):
    """Each click against the candidates of its impression that were not clicked; learns an order.

    Args:
        label_smoothing: share of the target to spread evenly.

    Example:
        >>> loss = genre_tf.losses.ClickSoftmax()
        >>> round(float(loss([[1.0, 0.0, -1.0]], [[0.0, 0.0, 9.0]])), 4)
        0.6931
    """

    _loss = staticmethod(softmax_loss)


@keras.saving.register_keras_serializable("genre_tf")
class SampledSoftmax(_LossOfImpressions):
    """The click of each row against articles drawn from the pool of its moment; for `TwoTower`.

    Example:
        >>> loss = genre_tf.losses.SampledSoftmax()
        >>> round(float(loss([[1.0, 0.0, -1.0]], [[0.0, 0.0, 9.0]])), 4)
        0.6931

    Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019.
    """

    _loss = staticmethod(sampled_softmax_loss)
