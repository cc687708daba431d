"""Raw text to article vectors in one graph: tokenizer, frozen layers, news tower."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.models.article_features import ArticleFeatures
from genre_tf.models.backbone import NewsBackbone
from genre_tf.models.news_tower import NewsTower

_BATCH_ARTICLES = 512


class NewsEncoder:
    """A stage's news tower with its tokenizer and frozen layers; encodes text and whole article tables.

    Args:
        backbone: tokenizer and frozen layers.
        tower: the stage's trained tower.
    """

    def __init__(self, backbone: NewsBackbone, tower: NewsTower) -> None:
        self.backbone = backbone
        self.tower = tower
        self._encode = _traced_once(lambda batch: tower(batch, training=False))
        self._text_vectors = _traced_once(lambda batch: tower.text_vectors(batch))
        self._whole = _traced_once(lambda batch: tower.whole(batch))

    @property
    def dimension(self) -> int:
        """D, the width of an article's vector."""
        return self.tower.dimension

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """Encode raw text, categories unknown: string [N] -> float32 [N, D], zeros for empty text."""
        return self.tower(self.text_features(texts), training=False)

    def text_features(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """The tower's inputs for raw text, string [N]; stages with the same frozen layers can share them."""
        return self.backbone.text_features(texts)

    def embed(self, features: ArticleFeatures) -> npt.NDArray[np.float32]:
        """Encode every article of a table, float32 [N, D]; row 0, the padding article, is zeros."""
        return _over_table(self._encode, features, self.dimension)

    def text_vectors(self, features: ArticleFeatures) -> npt.NDArray[np.float32]:
        """The tower's text vectors of every article of a table, float32 [N, hidden], not centred."""
        return _over_table(self._text_vectors, features, self.tower.text_dimension)

    def whole(self, features: ArticleFeatures) -> npt.NDArray[np.float32]:
        """Vectors of every article before they are reduced, float32 [N, sum of the tower's parts]."""
        vectors = _over_table(self._whole, features, sum(self.tower.parts))
        vectors[0] = 0
        return vectors

    def embed_rows(self, features: ArticleFeatures, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Encode some articles of a table: int [M] -> float32 [M, D]."""
        return _over_table(self._encode, features, self.dimension, rows)


def _traced_once(encode: Callable[[Any], tf.Tensor]) -> Any:
    return tf.function(encode, autograph=False)


def _over_table(
    encode: Any,
    features: ArticleFeatures,
    width: int,
    rows: npt.NDArray[np.integer] | None = None,
) -> npt.NDArray[np.float32]:
    lengths = np.diff(features.states.offsets)
    rows = np.arange(len(lengths)) if rows is None else rows
    order = np.argsort(lengths[rows], kind="stable")
    vectors = np.zeros((len(rows), width), np.float32)
    for start in range(0, len(order), _BATCH_ARTICLES):
        places = order[start : start + _BATCH_ARTICLES]
        batch = {name: tf.constant(value) for name, value in features.gather(rows[places]).items()}
        vectors[places] = encode.get_concrete_function(_of_any_length(batch))(batch).numpy()
    return vectors


def _of_any_length(batch: dict[str, tf.Tensor]) -> dict[str, tf.TensorSpec]:
    """One trace for all batches, however many articles and tokens they have."""
    return {
        name: tf.TensorSpec([None] * min(value.shape.rank, 2) + value.shape[2:], value.dtype)
        for name, value in batch.items()
    }
