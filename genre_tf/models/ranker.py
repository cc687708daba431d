"""The ranker: the probability that this reader clicks this article now."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tf.models.attention_pooling import positions_from_newest
from genre_tf.models.counter_heads import PACE, CounterHead, PoolHead
from genre_tf.models.impression_model import ImpressionModel
from genre_tf.models.news_encoder import NewsEncoder

# Assumed spread of similarities of titles, and of categories, before `adapt` has measured it.
_TEXT_SPREAD, _CATEGORY_SPREAD = 0.1, 0.05
# A title's attractiveness holds only half on the next days, so it is kept small (held-out days).
_ATTRACTIVENESS_L2 = 4e-4


@keras.saving.register_keras_serializable("genre_tf")
class Ranker(ImpressionModel):
    """Candidate-aware attention over the history; live counters add a second logit.

    Every candidate attends to the clicks that are similar to it. The result (attended, mean and greatest
    similarity, for each part of the articles' vectors) and the attractiveness of the candidate's own text
    give the click logit. With live counters, a linear head combines the same similarities with the counters,
    which replace the attractiveness; one model gives both logits.

    Calling it gives logits, for losses and metrics; `predict` gives click probabilities.

    If a log says how long clicks were read, attention is weighted by it in training. A server does not get
    this, and its graph uses weights of 1.

    Args:
        news: the news encoder, of which this model trains a copy.
        max_history: H, number of newest clicks that are read.
        counters: whether it also learns a logit with live counters.
        view_counters: whether whole-pool ranking may use views, which are another recommender's choice.
        dropout: dropout rate in training.
        click_rate: share of shown articles that were clicked; logits start there.
        share_news: train `news` itself instead of a copy.

    Example:
        >>> ranker = genre_tf.models.Ranker(genre_tf.models.NewsEncoder.from_preset("tiny"))
        >>> question = {"history": [["Storm closes schools"]], "candidates": [["Flood warning", "Cup final"]]}
        >>> ranker.predict(question, verbose=0).shape
        (1, 2)

    Source: Zhou et al., "Deep Interest Network", 2018 (candidate-aware attention); Wu et al., "NPA", 2019.
    """

    def __init__(
        self,
        news: NewsEncoder,
        *,
        max_history: int = 50,
        counters: bool = False,
        view_counters: bool = True,
        dropout: float = 0.1,
        click_rate: float = 0.05,
        share_news: bool = False,
        name: str = "ranker",
    ) -> None:
        # Counters go into thousands, and logits are compared: the towers may be bfloat16, this is float32.
        super().__init__(news, max_history, share_news, name=name, dtype="float32")
        self._arguments = {
            "counters": counters,
            "view_counters": view_counters,
            "dropout": dropout,
            "click_rate": click_rate,
        }
        self.parts = self.news.parts
        self.dropout = keras.layers.Dropout(dropout, dtype="float32")
        self.attractiveness = keras.layers.Dense(
            1,
            use_bias=False,
            kernel_initializer="zeros",
            kernel_regularizer=keras.regularizers.L2(_ATTRACTIVENESS_L2),
            name="attractiveness",
            dtype="float32",
        )
        self.attractiveness.build((None, None, self.news.dimension))
        rate = min(max(click_rate, 1e-4), 1 - 1e-4)
        logit = math.log(rate / (1 - rate))
        self.counter_head = CounterHead(3 * len(self.parts), logit) if counters else None
        self.pool_head = PoolHead(3 * len(self.parts), view_counters)
        dimension, parts = self.news.dimension, len(self.parts)
        constant = keras.initializers.Constant

        def weight(name: str, shape: tuple[int, ...], start: Any, trainable: bool = True) -> Any:
            return self.add_weight(name=name, shape=shape, initializer=start, trainable=trainable)

        # Sharp enough for a few similar clicks to outweigh the rest: best for untrained titles (measured).
        self.sharpness = weight("sharpness", (parts,), constant(8.0 / PACE))
        self.recency_bias = weight("recency_bias", (self.max_history,), "zeros")
        # Initial weights that already rank: each similarity is standardised.
        self.similarity_weights = weight("similarity_weights", (3, parts), constant(0.1 / PACE))
        spreads = [_TEXT_SPREAD] + [_CATEGORY_SPREAD] * (parts - 1)
        self.similarity_mean = weight("similarity_mean", (3, parts), "zeros", trainable=False)
        self.similarity_spread = weight("similarity_spread", (3, parts), constant([spreads] * 3), False)
        self.bias = weight("bias", (), constant(logit))
        self.no_history = weight("no_history", (dimension,), "zeros")
        if self.counter_head is not None:  # created now, so that weights can be loaded before the first call
            self.counter_head.build()
        self.built = True

    def attention(
        self,
        history: tf.Tensor,
        history_mask: tf.Tensor,
        candidates: tf.Tensor,
        click_weights: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """How much each candidate attends to each click.

        Args:
            history: float32 [B, H, D], oldest first.
            history_mask: bool [B, H].
            candidates: float32 [B, C, D].
            click_weights: float32 [B, H], above zero: a click with weight 2 is attended to like two equal
                clicks; None: 1 everywhere.

        Returns:
            Weights float32 [B, C, H], which sum to 1 over real clicks, and similarities for each part of the
            vectors, float32 [B, parts, C, H].
        """
        pairs = zip(tf.split(candidates, self.parts, -1), tf.split(history, self.parts, -1), strict=True)
        # Parts come before the clicks: with three numbers in the last axis, no op below would vectorize.
        alike = tf.stack([tf.matmul(*pair, transpose_b=True) for pair in pairs], axis=1)
        newest = tf.gather(self.recency_bias, positions_from_newest(history_mask, self.max_history))
        if click_weights is not None:
            newest += tf.math.log(click_weights) / PACE
        sharpened = tf.reduce_sum(alike * self.sharpness[:, None, None], axis=1)
        real = tf.cast(history_mask, tf.float32)[:, None, :]  # [batch, 1, clicks]
        scores = PACE * (sharpened + newest[:, None, :]) + _below_all(real)  # [batch, candidates, clicks]
        # The product handles a reader without clicks, whose scores are all equal.
        return tf.nn.softmax(scores) * real, alike

    def click_logits(
        self,
        history: tf.Tensor,
        history_mask: tf.Tensor,
        candidates: tf.Tensor,
        candidate_mask: tf.Tensor,
        counters: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        """Logits of the click probability.

        Args:
            history: float32 [B, H, D], vectors of the newest clicks, oldest first.
            history_mask: bool [B, H].
            candidates: float32 [B, C, D].
            candidate_mask: bool [B, C]; counters are compared among these.
            counters: float32 [B, C, 3 or more], clicks, views and age in hours; None: do not use counters.
            training: whether dropout is active.

        Returns:
            float32 [B, C]; `sigmoid` of it is the click probability.
        """
        found = self.similarities(history, history_mask, candidates)  # [batch, candidates, 3, parts]
        if counters is None or self.counter_head is None:
            return self._click(found, candidates, training)
        return self._with_counters(found, counters, candidate_mask)

    def pool_logits(
        self, history: tf.Tensor, history_mask: tf.Tensor, candidates: tf.Tensor, counters: tf.Tensor
    ) -> tf.Tensor:
        """Logits of the probability that the reader clicks each candidate of the pool, if it is shown.

        Unlike `click_logits` with counters, candidates are not compared with each other: an article's logit
        does not depend on what is retrieved with it.

        Args:
            history: float32 [B, H, D], vectors of the newest clicks, oldest first.
            history_mask: bool [B, H].
            candidates: float32 [B, C, D].
            counters: float32 [B, C, 9], the columns of `COUNTERS`.

        Returns:
            float32 [B, C].
        """
        found = self.similarities(history, history_mask, candidates)
        return self.pool_head(flat(found), counters)

    def similarities(
        self,
        history: tf.Tensor,
        mask: tf.Tensor,
        candidates: tf.Tensor,
        click_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Attended, mean and greatest similarity of each part to the history, float32 [B, C, 3, parts]."""
        # One more column: the learned vector, as the only click of a reader without clicks.
        empty = ~tf.reduce_any(mask, axis=1, keepdims=True)  # [batch, 1]
        column = tf.where(empty[..., None], self.no_history, tf.zeros_like(self.no_history)[None, None])
        history, mask = tf.concat([history, column], axis=1), tf.concat([mask, empty], axis=1)
        if click_weights is not None:
            click_weights = tf.pad(click_weights, [[0, 0], [0, 1]], constant_values=1.0)
        weights, alike = self.attention(history, mask, candidates, click_weights)
        real = tf.cast(mask, tf.float32)[:, None, None, :]
        attended = tf.reduce_sum(weights[:, None] * alike, 3)  # [batch, parts, candidates]
        mean = tf.reduce_sum(alike * real, 3) / tf.reduce_sum(real, 3)
        greatest = tf.reduce_max(alike + _below_all(real), 3)
        return tf.transpose(tf.stack([attended, mean, greatest], 1), [0, 3, 1, 2])

    def adapt(self, mean: tf.Tensor, spread: tf.Tensor, weights: tf.Tensor, bias: float) -> None:
        """Set initial weights of the standardised similarities, float32 [3, parts], and a bias.

        The mean and the standard deviation of each similarity in a log are float32 [3, parts], too.
        """
        self.similarity_mean.assign(mean)
        self.similarity_spread.assign(tf.maximum(spread, 1e-3))
        self.similarity_weights.assign(weights / PACE)
        self.bias.assign(bias)

    def shift(self, click: float, with_counters: float) -> None:
        """Shift the logits without and with counters, each by a constant; no order changes."""
        self.bias.assign_add(click)
        if self.counter_head is not None:
            self.counter_head.shift(with_counters)

    def _click(self, similarities: tf.Tensor, candidates: tf.Tensor, training: bool | None) -> tf.Tensor:
        """Logits without counters, from similarities [B, C, 3, parts] and vectors of the candidates."""
        found = (similarities - self.similarity_mean) / self.similarity_spread
        interest = tf.reduce_sum(found * (PACE * self.similarity_weights), axis=[-2, -1]) + self.bias
        return interest + self.attractiveness(self.dropout(candidates, training=training))[..., 0]

    def _with_counters(self, similarities: tf.Tensor, counters: tf.Tensor, mask: tf.Tensor) -> Any:
        """Counters replace attractiveness, because they measure what it predicts (both together rank worse).

        The text model learns from its own loss only, so that it also learns what the counters could explain.
        """
        return self.counter_head(flat(tf.stop_gradient(similarities)), counters, mask)  # type: ignore[misc]

    def call(self, batch: dict[str, Any], training: bool | None = None) -> dict[str, tf.Tensor]:
        """Logits of a batch of impressions with the features of its articles.

        Returns:
            `click`, float32 [B, C], without counters; `click_with_counters` likewise, if this ranker has
            them and the batch too.
        """
        return self.logits_of(self.article_vectors_of(batch, training), batch, training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **rest: Any
    ) -> Any:
        """The compiled loss, as the mean over the logits without and with counters."""
        loss_of = super().compute_loss
        return sum(loss_of(x, y, each, sample_weight, **rest) for each in y_pred.values()) / len(y_pred)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Update the compiled metrics with the logits that `predict` uses."""
        return super().compute_metrics(x, y, best_logits(y_pred), sample_weight)  # type: ignore[no-any-return]

    def predict_step(self, data: Any) -> tf.Tensor:
        """Click probabilities of a batch, float32 [B, C]; NaN where an impression is padded."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        probability = tf.sigmoid(best_logits(self(x, training=False)))
        return tf.where(x["mask"], probability, math.nan)

    def predict(self, x: Any, batch_size: int | None = None, **options: Any) -> Any:
        """Click probabilities, with counters if both this ranker and the data have them.

        Args:
            x: batches of `ClickLog.batches`, or raw strings as in `ImpressionModel`.
            batch_size: rows in a batch of raw strings; None: 32.
            options: further arguments of `keras.Model.predict`.

        Returns:
            float32 [N, C]; a row with fewer candidates ends in NaN.

        Raises:
            InputError: the data does not fit this model.
        """
        batches = self._batches(x, None, batch_size)
        if self.distribute_strategy.num_replicas_in_sync > 1 and batches is not x:
            parts = [self.predict_step(batch) for batch in batches]
            found = tf.concat([tf.RaggedTensor.from_tensor(part) for part in parts], 0)
        else:
            found = super().predict(batches, **options)
        rows = found if isinstance(found, np.ndarray) else found.to_tensor(math.nan).numpy()
        return np.asarray(rows, np.float32)

    def logits_of(
        self, vectors: tf.Tensor, batch: dict[str, Any], training: bool | None = None
    ) -> dict[str, tf.Tensor]:
        """Like `call`, with given vectors of the batch's articles, float32 [U, D]."""
        history, candidates = tf.gather(vectors, batch["history"]), tf.gather(vectors, batch["candidates"])
        found = self.similarities(history, batch["history"] > 0, candidates, batch.get("history_weights"))
        logits = {"click": self._click(found, candidates, training)}
        if self.counter_head is not None and "counters" in batch:
            logits["click_with_counters"] = self._with_counters(found, batch["counters"], batch["mask"])
        return logits


def best_logits(logits: dict[str, tf.Tensor]) -> tf.Tensor:
    """The logits with counters if there are any, else those without."""
    return logits.get("click_with_counters", logits["click"])


def _below_all(real: tf.Tensor) -> tf.Tensor:
    """An addition that makes clicks that are not real (0 and not 1) count less than every real one."""
    return 1e9 * (real - 1.0)


def flat(similarities: tf.Tensor) -> tf.Tensor:
    """Similarities in one row: [B, C, 3, parts] -> [B, C, 3 * parts]."""
    return tf.reshape(similarities, [*tf.unstack(tf.shape(similarities)[:2]), 3 * similarities.shape[-1]])
