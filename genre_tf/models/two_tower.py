"""Two-tower retrieval: readers and articles in one space, in which the dot product is the score."""

import math
from typing import Any

import keras
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.models.article_features import batch_features
from genre_tf.models.backbone import NewsBackbone
from genre_tf.models.moment import MomentBias
from genre_tf.models.news_encoder import NewsEncoder
from genre_tf.models.news_tower import NewsTower
from genre_tf.models.user_tower import UserTower


class TwoTower(keras.Model):
    """A news tower, a user tower, and a bias for current popularity.

    The logit of an article for a reader at a moment is `reader · article + weight(reader) * bias(counters)`.
    The bias is one more dimension of the article's vector (`article_vectors`) and the weight one more of the
    reader's (`query`), so that any search by dot products finds the articles with the greatest logits. The
    weight of this bias depends on the reader; for a reader without history only the bias matters.

    Args:
        backbone: the news backbone.
        config: settings of the run.

    Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019.
    """

    def __init__(self, backbone: NewsBackbone, config: RunConfig) -> None:
        super().__init__(name="two_tower")
        settings = config.retrieval
        self.news_tower = NewsTower(backbone, settings.dimension)
        self.user_tower = UserTower(
            self.news_tower.dimension, settings.heads, config.data.max_history, config.news.dropout
        )
        self.moment_bias = MomentBias(settings.view_counters)
        self.moment_weight = keras.layers.Dense(
            1,
            activation="softplus",
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(math.log(math.e - 1)),  # a weight of 1
            name="moment_weight",
            dtype="float32",
        )
        self.moment_weight.build((None, self.news_tower.dimension))
        self.encoder = NewsEncoder(backbone, self.news_tower)
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

    def pool_logits(self, batch: dict[str, Any], training: bool | None = None) -> tf.Tensor:
        """Logits of the candidates of a batch with their counters, float32 [B, C]."""
        readers, candidates = self(batch, training=training)
        articles = self.article_vectors(candidates, batch["counters"])  # [batch, candidates, D + 1]
        return tf.linalg.matvec(articles, self.query(readers))

    def call(self, batch: dict[str, Any], training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Encode a batch of impressions with the features of its articles.

        Returns:
            Reader vectors float32 [B, D], and candidate vectors float32 [B, C, D].
        """
        vectors = self.news_tower(batch_features(batch), training=training)  # [articles, dimension]
        history = tf.gather(vectors, batch["history"])  # [batch, clicks, dimension]
        readers = self.user_vector(history, batch["history"] > 0, training, batch.get("history_weights"))
        return readers, tf.gather(vectors, batch["candidates"])
