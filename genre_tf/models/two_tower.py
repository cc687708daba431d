"""Two-tower retrieval: readers and articles in one space, in which the dot product is the score."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from genre_tf.data.articles import Article
from genre_tf.data.click_log import ClickLog
from genre_tf.data.moment_pool import MomentPool, draw_from_pool, moment
from genre_tf.errors import InputError
from genre_tf.models.attention_pooling import AttentionPooling
from genre_tf.models.counter_heads import MomentBias
from genre_tf.models.impression_model import ImpressionModel, checked_titles
from genre_tf.models.news_encoder import NewsEncoder, Vectors

DRAWN = "draw_probability"
"""Column of a batch, float32 [B, C]: the probability that each candidate was drawn."""

_BATCH_READERS = 256
_SHOWN, _FROM_POOL, _MOST_CLICKS = 4, 60, 100_000  # negatives and clicks; see `RetrievalConfig`


class Recommendation(NamedTuple):
    """A found article and its logit."""

    news_id: str
    title: str
    score: float


class UserTower(keras.layers.Layer):
    """Multi-head self-attention over the history, then attention pooling that knows how recent a click is.

    The self-attention is added through a learned gate that starts at zero (ReZero), so that the tower starts
    as the mean of the history, the strongest untrained reader vector. A reader without history is a learned
    vector. If a log says how long clicks were read, the pooling is weighted by it in training (the self-
    attention is not). A server does not get this, and its graph uses weights of 1.

    Source: Wu et al., "Neural News Recommendation with Multi-Head Self-Attention" (NRMS), 2019; Bachlechner
    et al., "ReZero is All You Need", 2020.
    """

    def __init__(self, dimension: int, heads: int, max_history: int, dropout: float) -> None:
        super().__init__(name="user_tower")
        self.attention = keras.layers.MultiHeadAttention(
            heads, max(1, dimension // heads), dropout=dropout, name="attention"
        )
        self.pooling = AttentionPooling(dimension // 2, positions=max_history, name="pooling")
        history = (None, None, dimension)
        self.attention.build(history, history)
        self.pooling.build(history)
        self.gate = self.add_weight(shape=(), initializer="zeros", name="gate")
        self.no_history = self.add_weight(shape=(dimension,), initializer="zeros", name="no_history")
        self.built = True

    def call(
        self,
        history: tf.Tensor,
        mask: tf.Tensor,
        training: bool | None = None,
        click_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Encode readers: history float32 [B, H, D], oldest first, and mask bool [B, H] -> float32 [B, D].

        Clicks may have weights, float32 [B, H], above zero.
        """
        mixed = self._mixed(history, mask, training)
        vector = self.pooling(mixed, mask, click_weights)  # [batch, dimension]
        return tf.where(tf.reduce_any(mask, axis=1)[:, None], vector, self.no_history[None, :])

    def click_shares(self, history: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """The weight of each click in the reader's vector, float32 [B, H]; arguments as in `call`.

        They are the pooling's weights, which sum to 1 over real clicks and are 0 elsewhere.
        """
        return self.pooling.weights_of(self._mixed(history, mask, False), mask)

    def _mixed(self, history: tf.Tensor, mask: tf.Tensor, training: bool | None) -> tf.Tensor:
        attended = self.attention(
            history, history, attention_mask=mask[:, None, :], training=training
        )  # [batch, clicks, dimension]
        return history + self.gate * attended


@keras.saving.register_keras_serializable("genre_tf")
class TwoTower(ImpressionModel):
    """Two-tower retrieval: a news encoder, a user tower, and a bias for current popularity.

    The logit of an article for a reader at a moment is `reader · article + weight(reader) * bias(counters)`.
    The bias is one more dimension of the article's vector (`article_vectors`) and the weight one more of the
    reader's (`query`), so that any search by dot products finds the articles with the greatest logits. The
    weight of this bias depends on the reader; for a reader without history only the bias matters.

    `fit` learns from clicks of a log: the candidates of each are the click, some articles shown with it and
    some of the rest of the pool of that moment. The log of the probability that a candidate was drawn is
    subtracted from its logit (logQ), so that it stands for all articles that it was drawn from.

    Args:
        news: the news encoder, of which this model trains a copy.
        max_history: H, number of newest clicks that are read.
        heads: number of heads of the self-attention over the history.
        dimension: width of the searched vectors; 0: that of the news encoder.
        view_counters: whether the popularity may use views, which are another recommender's choice.
        dropout: dropout rate in training.
        share_news: train `news` itself instead of a copy.

    Example:
        >>> towers = genre_tf.models.TwoTower(genre_tf.models.NewsEncoder.from_preset("tiny"))
        >>> found = towers.recommend([["Storm closes schools"]], articles=log.articles, k=3)
        >>> len(found[0])
        3

    Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019;
    Bengio and Senécal, "Adaptive Importance Sampling", 2008.
    """

    def __init__(
        self,
        news: NewsEncoder,
        *,
        max_history: int = 50,
        heads: int = 8,
        dimension: int = 0,
        view_counters: bool = True,
        dropout: float = 0.1,
        share_news: bool = False,
        name: str = "two_tower",
    ) -> None:
        super().__init__(news, max_history, share_news, reduced_dimension=dimension, name=name)
        self._arguments = {"heads": heads, "view_counters": view_counters, "dropout": dropout}
        self._pool_metrics: Callable[[], list[Any]] = list
        self.user_tower = UserTower(self.news.dimension, heads, max_history, dropout)
        self.moment_bias = MomentBias(view_counters)
        self.moment_weight = keras.layers.Dense(
            1,
            activation="softplus",
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(math.log(math.e - 1)),  # a weight of 1
            name="moment_weight",
            dtype="float32",
        )
        self.moment_weight.build((None, self.news.dimension))
        history = tf.TensorSpec([None, None, self.news.dimension]), tf.TensorSpec([None, None], tf.bool)
        self._query = tf.function(
            lambda vectors, mask: self.query(self.user_vector(vectors, mask)),
            input_signature=history,
            autograph=False,
        )
        self.built = True

    def user_vector(
        self,
        history_vectors: tf.Tensor,
        mask: tf.Tensor,
        training: bool | None = None,
        click_weights: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Encode readers: float32 [B, H, D] oldest first, bool and float32 [B, H] -> float32 [B, D]."""
        readers = self.user_tower(history_vectors, mask, training=training, click_weights=click_weights)
        return tf.cast(readers, tf.float32)  # the tower itself may compute in bfloat16

    def query(self, readers: tf.Tensor) -> tf.Tensor:
        """The vector to search with: readers float32 [B, D] -> float32 [B, D + 1]."""
        return tf.concat([readers, self.moment_weight(readers)], axis=-1)

    def article_vectors(self, vectors: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
        """The vectors to search in: float32 [..., D] and counters [..., 9] -> float32 [..., D + 1]."""
        return tf.concat([vectors, self.moment_bias(counters)[..., None]], axis=-1)

    def vectors_of(self, batch: dict[str, Any], training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Encode a batch of impressions with the features of its articles.

        Returns:
            Reader vectors float32 [B, D], and candidate vectors float32 [B, C, D].
        """
        vectors = self.article_vectors_of(batch, training)  # [articles, dimension]
        history = tf.gather(vectors, batch["history"])  # [batch, clicks, dimension]
        readers = self.user_vector(history, batch["history"] > 0, training, batch.get("history_weights"))
        return readers, tf.gather(vectors, batch["candidates"])

    def call(self, batch: dict[str, Any], training: bool | None = None) -> tf.Tensor:
        """Logits of the candidates of a batch, with their counters if it has any: float32 [B, C]."""
        readers, candidates = self.vectors_of(batch, training)
        if "counters" not in batch:
            return tf.linalg.matvec(candidates, readers)
        articles = self.article_vectors(candidates, batch["counters"])  # [batch, candidates, D + 1]
        return tf.linalg.matvec(articles, self.query(readers))

    def corrected(self, logits: tf.Tensor, batch: dict[str, Any]) -> tf.Tensor:
        """Logits minus the log of the probability that each candidate was drawn, if the batch knows it."""
        return _correct_sampling()(logits, batch[DRAWN]) if DRAWN in batch else logits

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **rest: Any
    ) -> Any:
        """The compiled loss of corrected logits."""
        return super().compute_loss(x, y, self.corrected(y_pred, x), sample_weight, **rest)

    def batches(
        self, log: ClickLog, batch_size: int = 32, *, shuffle: bool = False, seed: int | None = None
    ) -> Any:
        """Clicks of a log, each with negatives from the pool of its moment; see `ClickLog.batches`."""
        pool = MomentPool(log.examples, len(log.table), None, log.table.published)
        examples, probabilities = draw_from_pool(
            log.examples, pool, shown=_SHOWN, drawn=_FROM_POOL, seed=seed or 0, most=_MOST_CLICKS
        )
        if not examples:
            raise InputError(f"{log} has no click beside another article: nothing can be learned from it")
        drawn = ClickLog(log.table, examples, {DRAWN: probabilities})
        found = super().batches(drawn, batch_size, shuffle=shuffle, seed=seed)
        found.log = log  # the whole log, for measures of the whole pool
        return found

    def queries(self, vectors: Any, histories: Sequence[Any]) -> Vectors:
        """Vectors to search with.

        Args:
            vectors: float32 [N, D], article vectors.
            histories: for each reader the rows of the clicks among them, int32 [h], oldest first.

        Returns:
            float32 [B, D + 1].
        """
        vectors, found = tf.constant(vectors), []
        for start in range(0, len(histories), _BATCH_READERS):
            rows = [
                history[max(0, len(history) - self.max_history) :]
                for history in histories[start:][:_BATCH_READERS]
            ]
            wide = max(1, *map(len, rows), 1)
            places = np.zeros((len(rows), wide), np.int32)
            mask = np.arange(wide) < np.asarray([[len(row)] for row in rows])  # [readers, clicks]
            places[mask] = np.concatenate([np.zeros(0, np.int32), *rows])
            found.append(self._query(tf.gather(vectors, places), tf.constant(mask)).numpy())
        return np.concatenate([np.zeros((0, self.news.dimension + 1), np.float32), *found])

    def recommend(
        self, histories: Sequence[Sequence[str]], *, articles: Sequence[Article], k: int = 10
    ) -> list[list[Recommendation]]:
        """The articles with the greatest logits, without counters.

        Args:
            histories: for each reader the titles of clicks, oldest first; empty for a new reader.
            articles: the pool to choose from.
            k: how many; fewer if the pool has fewer.

        Returns:
            A list for each reader, best first, without articles whose title the reader has read.

        Raises:
            InputError: a history is not a list of titles, or k is below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1; got {k}")
        read = list(
            dict.fromkeys(title for history in checked_titles(histories, "histories") for title in history)
        )
        place = {title: number for number, title in enumerate(read)}
        places = [np.asarray([place[title] for title in history], np.int32) for history in histories]
        known = self.news.encode(read) if read else np.zeros((1, self.news.dimension), np.float32)
        queries = self.queries(known, places)[:, :-1]
        scores = queries @ self.news.encode(articles).T  # [readers, articles]
        titles = np.asarray([article.title for article in articles], np.object_)
        found = []
        for row, history in zip(scores, histories, strict=True):
            row = np.where(np.isin(titles, list(history)), -np.inf, row)
            best = [number for number in np.argsort(-row, kind="stable")[:k] if np.isfinite(row[number])]
            found.append(
                [Recommendation(articles[n].news_id, articles[n].title, float(row[n])) for n in best]
            )
        return found

    def evaluate(self, x: Any = None, y: Any = None, batch_size: int | None = None, **options: Any) -> Any:
        """Measure; arguments and result are those of `keras.Model.evaluate`.

        Metrics of the whole pool, such as `PoolRecall`, are measured on the log that `x` was made from: every
        clicked article among all articles that could be shown at that moment and were not read.

        Raises:
            InputError: there is such a metric, but `x` was not made by `ClickLog.batches`.
        """
        as_dict = options.pop("return_dict", False)
        found = super().evaluate(x, y, batch_size, return_dict=True, **options)
        if of_pool := self._pool_metrics():
            if getattr(x, "log", None) is None:
                names = ", ".join(metric.name for metric in of_pool)
                raise InputError(f"{names} needs the whole log: evaluate with log.batches(model)")
            log: ClickLog = x.log
            pool = MomentPool(log.examples, len(log.table), None, log.table.published)
            vectors = self.news.embed(
                self.news.features(log.table, needed=log.examples.named(len(log.table)))
            )
            clicked = [one for one in log.examples if (one.labels > 0).any()]
            queries = self.queries(vectors, [one.history for one in clicked])
            for metric in of_pool:
                metric.reset_state()
            for one, query in zip(clicked, queries, strict=True):
                right = one.candidates[one.labels > 0]
                rows = pool.rows(moment(one))
                rows = rows[~np.isin(rows, np.setdiff1d(one.history, right))]
                bias = self.moment_bias(pool.before(rows, moment(one))).numpy()
                scores = vectors[rows] @ query[:-1] + bias * query[-1]
                for metric in of_pool:
                    metric.update_state(np.isin(rows, right)[None], scores[None])
            found |= {metric.name: float(metric.result()) for metric in of_pool}
        return found if as_dict else list(found.values()) if len(found) > 1 else found["loss"]

    def compile(
        self, optimizer: Any = "rmsprop", *, metrics: Sequence[Any] | None = None, **options: Any
    ) -> None:
        """Configure for training; arguments are those of `keras.Model.compile`.

        Metrics of the whole pool are measured by `evaluate`, after the metrics of single batches.
        """
        given = list(metrics or ())
        of_pool = [metric for metric in given if getattr(metric, "of_pool", False)]
        self._pool_metrics = lambda: of_pool  # a list would be tracked, and reported for each batch
        of_batches = [metric for metric in given if not getattr(metric, "of_pool", False)]
        super().compile(optimizer, metrics=of_batches or None, **options)

    def get_compile_config(self) -> Any:
        """What `compile` was given."""
        found = super().get_compile_config()
        if found and self._pool_metrics():
            of_pool = [keras.saving.serialize_keras_object(metric) for metric in self._pool_metrics()]
            found["metrics"] = [*(found.get("metrics") or ()), *of_pool]
        return found


@functools.cache
def _correct_sampling() -> Any:
    return tfrs.layers.loss.SamplingProbablityCorrection()
