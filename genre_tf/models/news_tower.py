"""The news tower: one vector per article, from BERT's token states and the article's categories."""

from typing import Any

import keras
import tensorflow as tf

from genre_tf.backbones.chunks import in_chunks
from genre_tf.models.attention_pooling import AttentionPooling
from genre_tf.models.backbone import NewsBackbone
from genre_tf.models.interest_space import InterestSpace

# Every token of a batch passes through it: a wider layer costs much and gained little (measured).
_POOLING_WIDTH = 64
# The projection has more weights than a small log has clicks, so it moves slower than the rest.
_PROJECTION_PACE = 0.1


class NewsTower(keras.Model):
    """Trained BERT layers, attention pooling and projection of the text, and category embeddings.

    The text part has length one, so that dot products of untrained vectors are the cosines that sentence
    encoders were made for. The projection is the identity plus a matrix that starts at zero, so that decay
    pulls towards the pretrained space instead of zero. The interest part, also of length one, holds the same
    text in the directions that distinguish readers; it is zero until `adapt` sets them. Each category part
    starts small: the same category adds about `0.4 ** 2` to a dot product, different categories almost
    nothing. An unknown category is a zero vector, so that a vector made from text alone stays comparable.

    Args:
        backbone: gives the categories and the trained layers (shared with other users of this object).
        directions: D, the reduced width of vectors, which makes a search cheaper; 0: not reduced.

    Source: Wu et al., "Empowering News Recommendation with Pre-trained Language Models", 2021.
    """

    def __init__(self, backbone: NewsBackbone, directions: int = 0, name: str = "news_tower") -> None:
        super().__init__(name=name)
        config = backbone.config
        self.upper = backbone.upper
        self.chunk = config.chunk if backbone.upper.blocks else 0  # without trained layers, little is kept
        self.text_dimension = int(backbone.bert.backbone.hidden_dim)
        self.pooling = AttentionPooling(_POOLING_WIDTH, name="pooling")
        self.dropout = keras.layers.Dropout(config.dropout)
        self.projection = keras.layers.Dense(
            self.text_dimension, use_bias=False, kernel_initializer="zeros", name="projection"
        )
        self.category: keras.layers.Embedding | None = None
        if config.use_category:
            self.category = _category_embedding(backbone, "category")
            self.subcategory = _category_embedding(backbone, "subcategory")
        self.interest_dimension = min(config.interest_dimension, self.text_dimension)
        interest = (self.interest_dimension,) * (self.interest_dimension > 0)
        self.parts = (self.text_dimension, *interest, *2 * (config.category_dimension,) * config.use_category)
        self.reduced = 0 if directions >= sum(self.parts) else directions
        self._build_layers()

    @property
    def dimension(self) -> int:
        """D, the width of an article's vector."""
        return self.reduced or sum(self.parts)

    def _build_layers(self) -> None:
        self.pooling.build((None, None, self.text_dimension))
        self.projection.build((None, self.text_dimension))
        for embedding in (self.category, getattr(self, "subcategory", None)):
            if embedding is not None:
                embedding.build((None,))
        self.centre = self.add_weight(
            name="centre", shape=(self.text_dimension,), initializer="zeros", trainable=False
        )
        if self.interest_dimension:
            shape = (self.text_dimension, self.interest_dimension)
            self.interest = self.add_weight(
                name="interest", shape=shape, initializer="zeros", trainable=False
            )
        if self.reduced:
            self.directions = self.add_weight(
                name="directions",
                shape=(sum(self.parts), self.reduced),
                initializer=keras.initializers.Orthogonal(seed=1),  # keeps dot products until `reduce`
                trainable=False,
                autocast=False,  # the parts are float32 under every policy
            )
        self.built = True

    def adapt(self, space: InterestSpace) -> None:
        """Set the centre and the interest directions that were measured on histories.

        Args:
            space: the space of this tower's `text_vectors` before training.
        """
        self.centre.assign(space.centre)
        if self.interest_dimension:
            self.interest.assign(space.kernel)

    def reduce(self, directions: Any) -> None:
        """Set the directions that vectors are reduced to, float32 [sum of parts, D]."""
        self.directions.assign(directions)

    def text_vectors(self, features: dict[str, Any], training: bool | None = None) -> tf.Tensor:
        """Text vectors, not centred: features as in `call` -> float32 [U, hidden], of length one or zero."""
        states, mask = features["states"], features["mask"]
        if not training or not self.chunk:
            return self._text_vectors(states, mask, training)
        layers = [self.upper, self.pooling, self.dropout, self.projection]
        return in_chunks(
            lambda states, mask: self._text_vectors(states, mask, True), layers, [states, mask], self.chunk
        )

    def _text_vectors(self, states: tf.Tensor, mask: tf.Tensor, training: bool | None) -> tf.Tensor:
        if states.dtype != tf.int32:
            states = tf.cast(states, self.compute_dtype)
        states = self.upper(states, mask=mask, training=training)  # [articles, tokens, hidden]
        pooled = self.pooling(states, mask)  # [articles, hidden]
        projected = pooled + _PROJECTION_PACE * self.projection(self.dropout(pooled, training=training))
        return tf.cast(tf.math.l2_normalize(projected, axis=-1), tf.float32)

    def call(self, features: dict[str, Any], training: bool | None = None) -> tf.Tensor:
        """Encode articles.

        Args:
            features: states [U, T, hidden] (or token ids [U, T]), mask bool [U, T], category and subcategory
                int32 [U].
            training: whether dropout is active.

        Returns:
            float32 [U, D]; a zero vector for an article without text and category.
        """
        whole = self.whole(features, training)
        return whole @ self.directions if self.reduced else whole

    def whole(self, features: dict[str, Any], training: bool | None = None) -> tf.Tensor:
        """All parts before reduction: features as in `call` -> float32 [U, sum of parts]."""
        text = self.text_vectors(features, training)  # [articles, hidden]
        has_text = tf.reduce_any(features["mask"], axis=1)[:, None]
        centred = tf.where(has_text, text - self.centre, tf.zeros_like(text))
        parts = [tf.math.l2_normalize(centred, axis=-1)]
        if self.interest_dimension:
            parts += [tf.math.l2_normalize(centred @ self.interest, axis=-1)]
        if self.category is not None:
            parts += [_known(self.category, features["category"])]
            parts += [_known(self.subcategory, features["subcategory"])]
        return tf.concat(parts, axis=-1)


def _category_embedding(backbone: NewsBackbone, name: str) -> keras.layers.Embedding:
    width = backbone.config.category_dimension
    start = keras.initializers.RandomNormal(stddev=0.4 / width**0.5, seed=1)
    return keras.layers.Embedding(
        len(backbone.categories.names), width, embeddings_initializer=start, name=name
    )


def _known(embedding: keras.layers.Embedding, rows: tf.Tensor) -> tf.Tensor:
    vectors = tf.cast(embedding(rows), tf.float32)  # [articles, width]
    return tf.where((rows > 0)[:, None], vectors, tf.zeros_like(vectors))
