"""Two-tower retrieval: readers and articles in one space, where the dot product is the score."""

from typing import Any

import keras
import tensorflow as tf

from genre_tf.config import RunConfig
from genre_tf.models.article_features import batch_features
from genre_tf.models.backbone import NewsBackbone
from genre_tf.models.news_encoder import NewsEncoder
from genre_tf.models.news_tower import NewsTower
from genre_tf.models.user_tower import UserTower


class TwoTower(keras.Model):
    """A news tower and a user tower.

    Args:
        backbone: of the news tower.
        config: settings of the run.

    Source: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019.
    """

    def __init__(self, backbone: NewsBackbone, config: RunConfig) -> None:
        super().__init__(name="two_tower")
        self.news_tower = NewsTower(backbone)
        self.user_tower = UserTower(
            self.news_tower.dimension, config.retrieval.heads, config.data.max_history, config.news.dropout
        )
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
        return self.user_tower(history_vectors, mask, training=training, click_weights=click_weights)

    def call(self, batch: dict[str, Any], training: bool | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Encode a batch of impressions with the features of its articles.

        Returns:
            Reader vectors float32 [B, D], and candidate vectors float32 [B, C, D].
        """
        vectors = self.news_tower(batch_features(batch), training=training)  # [articles, dimension]
        history = tf.gather(vectors, batch["history"])  # [batch, clicks, dimension]
        readers = self.user_vector(history, batch["history"] > 0, training, batch.get("history_weights"))
        return readers, tf.gather(vectors, batch["candidates"])
