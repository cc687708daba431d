"""Losses of a writer: next-token cross-entropy, and the preference for one text over another."""

from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.losses.replicas import sum_over_replicas


class TokenLosses(NamedTuple):
    """Cross-entropy of n tokens in nats, their weights (1 in a target), float32 [n], and the row of each."""

    losses: Any
    weights: Any
    rows: Any


def token_losses(writer: Any, batch: dict[str, tf.Tensor], training: bool) -> TokenLosses:
    """Cross-entropy of each counted token of a batch of `TextRows.batches`.

    Padding and control tokens skip the output matrix, which costs a third of the whole model.
    """
    states = writer.states(batch, training=training)  # [batch, time, hidden]
    counts = tf.where(batch["label_weight"] > 0)  # [n, 2]
    logits = writer.logits(tf.gather_nd(states, counts))  # [n, vocabulary]
    labels = tf.gather_nd(batch["labels"], counts)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    return TokenLosses(losses, tf.gather_nd(batch["label_weight"], counts), counts[:, 0])


def all_token_losses(writer: Any, batch: dict[str, tf.Tensor], training: bool) -> TokenLosses:
    """The same for every position, for fixed shapes; positions that do not count have weight 0."""
    logits = tf.cast(writer(batch, training=training), tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
    shape = tf.shape(losses, tf.int64)
    rows = tf.repeat(tf.range(shape[0])[:, None], shape[1], axis=1)
    return TokenLosses(*(tf.reshape(each, [-1]) for each in (losses, batch["label_weight"], rows)))


def mean_token_loss(found: TokenLosses) -> tf.Tensor:
    """Weighted mean of token losses, float32 []; with several replicas this replica's share."""
    total = tf.reduce_sum(found.losses * found.weights)
    return total / tf.maximum(sum_over_replicas(tf.reduce_sum(found.weights)), 1.0)


def preference_loss(log_probabilities: tf.Tensor, reference: tf.Tensor, beta: float) -> tf.Tensor:
    """How surely a writer prefers texts to others, compared with a reference: mean in nats, float32 [].

    It is log 2 for the reference itself. `beta` is the strength of the bound on the distance to it.

    Args:
        log_probabilities: float32 [2 n], of n preferred texts and then of the n others, whole texts.
        reference: likewise, by the writer that learning began with.
        beta: above 0.

    Source: Rafailov et al., "Direct Preference Optimization", 2023, equation 7.
    """
    preferred, other = tf.split(log_probabilities - reference, 2)
    return tf.reduce_mean(tf.nn.softplus(-beta * (preferred - other)))


def text_log_probabilities(found: TokenLosses, rows: Any) -> Any:
    """Log probability of the whole target of each of the rows, float32 [rows]."""
    of_target = found.losses * tf.cast(found.weights == 1.0, tf.float32)
    return -tf.math.unsorted_segment_sum(of_target, found.rows, rows)
