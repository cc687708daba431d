"""Losses of the generator: the next token, and that a reader's title is likelier before that reader."""

from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.models.generator import Generator
from genre_tf.training.contrast_rows import ORDINARY
from genre_tf.training.fit import StageTrainer
from genre_tf.training.replicas import sum_over_replicas


class TokenLosses(NamedTuple):
    """Cross-entropy of tokens.

    Args:
        losses: float32 [n], in nats.
        weights: float32 [n]; 1 for a token of the target.
        rows: int64 [n], the row of each.
    """

    losses: Any
    weights: Any
    rows: Any


class GenerationTrainer(StageTrainer):
    """Cross-entropy of the next token, weighted: the target's words fully, those of its context a little.

    With a contrast, rows that come a second time before another reader are not learned but compared.

    Args:
        model: the generator.
        fixed_shapes: computes logits at every position, since how many count differs from batch to batch.
        contrast_weight: of the interest-contrastive loss.
    """

    def __init__(self, model: Generator, fixed_shapes: bool = False, contrast_weight: float = 0.0) -> None:
        super().__init__(model)
        self.fixed_shapes = fixed_shapes
        self.contrast_weight = contrast_weight

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Weighted mean loss of a batch, float32 []; of several replicas the share of this one."""
        take = all_token_losses if self.fixed_shapes else token_losses
        found = take(self.model, batch, training)
        weights = found.weights
        if "contrast_of" in batch:
            weights *= tf.cast(tf.gather(batch["contrast_of"], found.rows) == ORDINARY, tf.float32)
        total = tf.reduce_sum(found.losses * weights)
        loss = total / tf.maximum(sum_over_replicas(tf.reduce_sum(weights)), 1.0)
        if "contrast_of" in batch and self.contrast_weight:
            loss += self.contrast_weight * contrast_loss(found, batch["contrast_of"])
        return loss

    def examples_in(self, batch: Any) -> tf.Tensor:
        """Rows of this replica's batch without those that come a second time, float32 []."""
        if "contrast_of" not in batch:
            return super().examples_in(batch)
        return tf.reduce_sum(tf.cast(batch["contrast_of"] == ORDINARY, tf.float32))


def contrast_loss(found: TokenLosses, contrast_of: tf.Tensor) -> tf.Tensor:
    """How surely a title tells its own reader from another one.

    Of a title y, its reader r and another reader s it is -log p(y|r) / (p(y|r) + p(y|s)): the surprise at the
    right reader, where both were equally likely before the title was seen.

    Args:
        found: of the tokens of a batch.
        contrast_of: int32 [batch]; see `TextRows.batches`.

    Returns:
        Mean over the rows that came a second time, in nats, float32 []; 0 where there is none. Of several
        replicas the share of this one.

    Source: Qian et al., "Controllable Natural Language Generation with Contrastive Prefixes", 2022
    (their discriminative loss over prefixes).
    """
    of_target = found.losses * tf.cast(found.weights == 1.0, tf.float32)
    of_row = tf.math.unsorted_segment_sum(of_target, found.rows, tf.shape(contrast_of)[0])  # [batch]
    compared = tf.cast(contrast_of >= 0, tf.float32)
    before_own = tf.gather(of_row, tf.maximum(contrast_of, 0))
    losses = tf.nn.softplus(before_own - of_row) * compared
    return tf.reduce_sum(losses) / tf.maximum(sum_over_replicas(tf.reduce_sum(compared)), 1.0)


def token_losses(generator: Generator, batch: dict[str, tf.Tensor], training: bool) -> TokenLosses:
    """Cross-entropy of each token that counts.

    Padding and control tokens are left out before the output matrix, which costs a third of the whole model.

    Args:
        generator: the model.
        batch: of `TextRows.batches`.
        training: whether dropout is on.
    """
    states = generator.states(batch, training=training)  # [batch, time, hidden]
    counts = tf.where(batch["label_weight"] > 0)  # [n, 2]
    logits = generator.logits(tf.gather_nd(states, counts))  # [n, vocabulary]
    labels = tf.gather_nd(batch["labels"], counts)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    return TokenLosses(losses, tf.gather_nd(batch["label_weight"], counts), counts[:, 0])


def all_token_losses(generator: Generator, batch: dict[str, tf.Tensor], training: bool) -> TokenLosses:
    """The same of every position, for fixed shapes; those that do not count have weight 0."""
    logits = tf.cast(generator(batch, training=training), tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
    shape = tf.shape(losses, tf.int64)
    rows = tf.repeat(tf.range(shape[0])[:, None], shape[1], axis=1)
    return TokenLosses(*(tf.reshape(each, [-1]) for each in (losses, batch["label_weight"], rows)))
