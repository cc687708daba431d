"""The models inside a recommender's SavedModel, as functions that can be read back from it.

The signatures call these functions, under names that a converter for other devices can find
(`DEVICE_FUNCTIONS`). With them `genre refresh` encodes new articles with the same weights that are served,
and computes the expected answers of the next version, without the run that the version was made from.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.contract import COUNTERS
from genre_tf.data.articles import ArticleTable

_BATCH_ARTICLES = 128  # with 32 tokens each, what two cores can process at once
_STRINGS = tf.TensorSpec([None], tf.string)
_MASK = tf.TensorSpec([None, None], tf.bool)

Vectors = npt.NDArray[np.float32]

DEVICE_FUNCTIONS = (
    "user_vector",
    "query",
    "moment_bias",
    "attention",
    "click_logits",
    "click_logits_with_counters",
    "pool_logits",
)
"""Functions that XLA can compile: no strings, no tables, no shapes that depend on values."""

ENCODER = ("encode_articles", "tables")
"""Attributes of `ServedModels` that only the encoding of articles needs."""


class ServedModels(tf.Module):
    """Both models as functions without Python state, which can be attached to a SavedModel.

    Args:
        two_tower: has `user_vector`, `query`, `moment_bias` and `encoder`.
        ranker: has `click_logits`, `pool_logits`, `attention` and `encoder`.
    """

    def __init__(self, two_tower: Any, ranker: Any) -> None:
        super().__init__(name="served_models")
        encoders = (two_tower.news, ranker.news)
        # Tables are attributes, models are not: TensorFlow would write functions of its own for Keras layers.
        self.tables = [_category_table(encoder.categories.names) for encoder in encoders]
        tables = tuple(self.tables)

        def encode_articles(*columns: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return _encode_articles(encoders, tables, *columns)

        self.encode_articles = _traced(encode_articles, *[_STRINGS] * 4)
        in_retrieval, in_ranking = (_vectors(encoder.dimension) for encoder in encoders)
        self.user_vector = _traced(two_tower.user_vector, in_retrieval, _MASK)
        self.query = _traced(two_tower.query, tf.TensorSpec([None, encoders[0].dimension], tf.float32))
        counters = _vectors(len(COUNTERS))
        self.moment_bias = _traced(two_tower.moment_bias, counters)
        self.attention = _traced(ranker.attention, in_ranking, _MASK, in_ranking)
        logits = (in_ranking, _MASK, in_ranking, _MASK)
        self.click_logits = _traced(ranker.click_logits, *logits)
        self.click_logits_with_counters = _traced(ranker.click_logits, *logits, counters)
        self.pool_logits = _traced(ranker.pool_logits, in_ranking, _MASK, in_ranking, counters)

    def device_functions(self) -> dict[str, Any]:
        """The `DEVICE_FUNCTIONS` by name, for `function_aliases` of a SavedModel."""
        return {name: getattr(self, name) for name in DEVICE_FUNCTIONS}


def click_logits(
    models: Any,
    history: tf.Tensor,
    mask: tf.Tensor,
    shown: tf.Tensor,
    shown_mask: tf.Tensor,
    counters: tf.Tensor | None,
) -> tf.Tensor:
    """The same as `Ranker.click_logits` without training.

    Args:
        models: a `ServedModels`, new or read back; the other arguments are those of `Ranker.click_logits`.
    """
    if counters is None:
        return models.click_logits(history, mask, shown, shown_mask)
    return models.click_logits_with_counters(history, mask, shown, shown_mask, counters)


def moment_biases(models: Any, counters: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The terms that counters add to the scores of articles: float32 [N, 9] -> float32 [N].

    Args:
        models: a `ServedModels`, new or read back.
        counters: counters of the articles.
    """
    return np.asarray(models.moment_bias(tf.constant(counters[None], tf.float32)))[0]


def encode_table(
    models: Any, table: ArticleTable, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Vectors, Vectors]:
    """Encode every article of a table from title, abstract and categories.

    Nothing is rounded, unlike in training, which stores the states of the frozen layers as float16. So the
    vectors of an article are the same to within 1e-5, whatever other articles are encoded with it.

    Args:
        models: a `ServedModels`, new or read back.
        table: N rows of articles; row 0 is the padding article.
        on_progress: called with (articles done, all articles).

    Returns:
        float32 [N, D] from the two-tower model and float32 [N, R] from the ranker; row 0 is zeros.
    """
    columns = [table.titles, table.abstracts, table.categories, table.subcategories]
    # Texts of similar length together: a batch is padded to its longest.
    lengths = np.array([len(title) + len(text) for title, text in zip(*columns[:2], strict=True)])
    order = np.argsort(lengths, kind="stable")
    parts: list[Any] = []
    for start in range(0, len(order), _BATCH_ARTICLES):
        rows = order[start : start + _BATCH_ARTICLES]
        batch = [tf.constant([column[row] for row in rows]) for column in columns]
        parts.append([vectors.numpy() for vectors in models.encode_articles(*batch)])
        if on_progress:
            on_progress(min(start + _BATCH_ARTICLES, len(order)), len(order))
    back = np.argsort(order, kind="stable")
    retrieval, ranking = (np.concatenate(vectors)[back] for vectors in zip(*parts, strict=True))
    retrieval[0], ranking[0] = 0, 0
    return retrieval, ranking


def _encode_articles(
    encoders: tuple[Any, Any],
    tables: tuple[Any, ...],
    titles: tf.Tensor,
    abstracts: tf.Tensor,
    category: tf.Tensor,
    subcategory: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    found = []
    features: dict[int, Any] = {}  # by frozen layers: encoders that share them also share their features
    for encoder, table in zip(encoders, tables, strict=True):
        if id(encoder.frozen) not in features:
            whole = tf.strings.strip(tf.strings.join([titles, abstracts], " "))
            features[id(encoder.frozen)] = encoder.text_features(whole if encoder.use_abstract else titles)
        known = {"category": table.lookup(category), "subcategory": table.lookup(subcategory)}
        found.append(encoder({**features[id(encoder.frozen)], **known}, training=False))
    return tuple(found)


def _category_table(names: tuple[str, ...]) -> Any:
    rows = tf.range(len(names), dtype=tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant(names), rows), 0)


def _vectors(dimension: int) -> tf.TensorSpec:
    return tf.TensorSpec([None, None, dimension], tf.float32)


def _traced(function: Callable[..., Any], *inputs: tf.TensorSpec) -> Any:
    return tf.function(lambda *tensors: function(*tensors), input_signature=inputs, autograph=False)
