"""Losses of the generator: next-token cross-entropy, and a contrast between the right and another reader."""

from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.losses.replicas import sum_over_replicas
from genre_tf.models.generator import Generator
from genre_tf.training.contrast_rows import ORDINARY
from genre_tf.training.fit import StageTrainer


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
    """Weighted cross-entropy of the next token: full weight on target words, a small weight on context words.

    With a contrast, second copies of rows (with another reader) are not learned, only compared.

    Args:
        model: the generator.
        fixed_shapes: compute logits at every position, because the number of counted positions varies.
        contrast_weight: weight of the interest-contrastive loss.
    """

    def __init__(self, model: Generator, fixed_shapes: bool = False, contrast_weight: float = 0.0) -> None:
        super().__init__(model)
        self.fixed_shapes = fixed_shapes
        self.contrast_weight = contrast_weight

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Weighted mean loss of a batch, float32 []; with several replicas this replica's share."""
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
        """Number of rows in this replica's batch, without second copies, float32 []."""
        if "contrast_of" not in batch:
            return super().examples_in(batch)
        return tf.reduce_sum(tf.cast(batch["contrast_of"] == ORDINARY, tf.float32))


def contrast_loss(found: TokenLosses, contrast_of: tf.Tensor) -> tf.Tensor:
    """How clearly a title identifies its own reader among two.

    For a title y, its reader r and another reader s it is -log p(y|r) / (p(y|r) + p(y|s)): the surprise at
    the correct reader, if both were equally likely before the title was seen.

    Args:
        found: losses of the tokens of a batch.
        contrast_of: int32 [batch]; see `TextRows.batches`.

    Returns:
        Mean over the second copies, in nats, float32 []; 0 if there are none. With several replicas this
        replica's share.

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
    """Cross-entropy of each counted token.

    Padding and control tokens skip the output matrix, which costs a third of the whole model.

    Args:
        generator: the generator.
        batch: batch of `TextRows.batches`.
        training: whether dropout is active.
    """
    states = generator.states(batch, training=training)  # [batch, time, hidden]
    counts = tf.where(batch["label_weight"] > 0)  # [n, 2]
    logits = generator.logits(tf.gather_nd(states, counts))  # [n, vocabulary]
    labels = tf.gather_nd(batch["labels"], counts)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
    return TokenLosses(losses, tf.gather_nd(batch["label_weight"], counts), counts[:, 0])


def all_token_losses(generator: Generator, batch: dict[str, tf.Tensor], training: bool) -> TokenLosses:
    """The same for every position, for fixed shapes; positions that do not count have weight 0."""
    logits = tf.cast(generator(batch, training=training), tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
    shape = tf.shape(losses, tf.int64)
    rows = tf.repeat(tf.range(shape[0])[:, None], shape[1], axis=1)
    return TokenLosses(*(tf.reshape(each, [-1]) for each in (losses, batch["label_weight"], rows)))
