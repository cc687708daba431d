"""The models inside a SavedModel, as functions that can be read back from it, and as encoders of titles.

The signatures call these functions, under names that a converter for other devices can find
(`DEVICE_FUNCTIONS`). With them `genre refresh` encodes new articles with the same weights that are served,
and computes the expected answers of the next version, without the run that the version was made from.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.contract import COUNTERS
from genre_tf.data.articles import ArticleTable
from genre_tf.models.article_features import by_length

_CHUNK_TITLES = 256  # titles encoded at a time, so that one long request cannot use up a server's memory
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
    """Both models as functions without Python state, which can be attached to a SavedModel."""

    def __init__(self, two_tower: Any, ranker: Any) -> None:
        super().__init__(name="served_models")
        encoders = (two_tower.news, ranker.news)
        # Tables are attributes, models are not: TensorFlow would write functions of its own for Keras layers.
        self.encoders: Callable[[], Sequence[Any]] = lambda: encoders
        self.tables: list[Any] = []
        for encoder in encoders:
            names = tf.constant(encoder.categories.names)
            rows = tf.lookup.KeyValueTensorInitializer(names, tf.range(tf.size(names)))
            self.tables.append(tf.lookup.StaticHashTable(rows, 0))
        tables = tuple(self.tables)

        def encode_articles(titles: Any, abstracts: Any, *categories: Any) -> tuple[tf.Tensor, ...]:
            columns = dict(zip(("category", "subcategory"), categories, strict=True))
            known = [{name: table.lookup(names) for name, names in columns.items()} for table in tables]
            return tuple(_encode(encoders, titles, abstracts, known))

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

    def tokenizers(self) -> list[Any]:
        """The tokenizers, whose look-up tables a SavedModel must contain."""
        return [encoder.frozen.tokenizer for encoder in self.encoders()]


class ReadEncoder:
    """One of the `encoders` of models that were read back from a SavedModel: 0 retrieval, 1 ranking.

    Without `encode_articles`, which a refresh leaves out if it has no titles to encode, vectors are zeros.
    """

    use_abstract = False

    def __init__(self, models: Any, place: int, dimension: int) -> None:
        self.frozen, self.place, self.dimension = models, place, dimension

    def text_features(self, titles: tf.Tensor) -> dict[str, Any]:
        """Titles, string [n], and their vectors from both models."""
        encode, nothing = getattr(self.frozen, "encode_articles", None), tf.fill(tf.shape(titles), "")
        return {"titles": titles, "vectors": encode and encode(titles, nothing, nothing, nothing)}

    def __call__(self, features: dict[str, Any], training: bool) -> tf.Tensor:
        """The vectors of one model, float32 [n, dimension]."""
        vectors = features["vectors"]
        return vectors[self.place] if vectors else tf.zeros([tf.size(features["titles"]), self.dimension])


def click_logits(models: Any, *inputs: tf.Tensor, counters: tf.Tensor | None = None) -> tf.Tensor:
    """The same as `Ranker.click_logits` without training, by a `ServedModels` that is new or read back."""
    if counters is None:
        return models.click_logits(*inputs)
    return models.click_logits_with_counters(*inputs, counters)


def moment_biases(models: Any, counters: Vectors) -> Vectors:
    """The terms that counters add to the scores of articles: float32 [N, 9] -> float32 [N]."""
    return np.asarray(models.moment_bias(tf.constant(counters[None], tf.float32)))[0]


def encode_table(models: Any, table: ArticleTable) -> tuple[Vectors, Vectors]:
    """Encode every article: float32 [N, D] from the two-tower model and float32 [N, R] from the ranker.

    Nothing is rounded, unlike in training, which stores the states of the frozen layers as float16. So the
    vectors of an article are the same to within 1e-5, whatever other articles are encoded with it. Row 0, the
    padding article, is zeros.
    """
    columns = [table.titles, table.abstracts, table.categories, table.subcategories]
    retrieval, ranking = by_length(models.encode_articles, columns, texts=2)
    retrieval[0], ranking[0] = 0, 0
    return retrieval, ranking


def encode_titles(titles: tf.Tensor, *encoders: Any) -> list[tf.Tensor]:
    """Vectors of titles, string [M], inside the served graph: one float32 [M, D] for each `NewsEncoder`.

    Time and memory are bounded; equal titles are encoded once, and so are frozen layers that encoders share.
    """
    different, place = tf.unique(titles)
    # Without any title a blank one is encoded, because tokenizer and loop need at least one.
    different = tf.concat([different, tf.fill([tf.cast(tf.size(titles) == 0, tf.int32)], "")], 0)
    chunks = (tf.size(different) + _CHUNK_TITLES - 1) // _CHUNK_TITLES
    arrays = [
        tf.TensorArray(
            tf.float32, chunks, infer_shape=False, element_shape=[None, one.dimension], clear_after_read=False
        )
        for one in encoders
    ]

    def encode_chunk(number: tf.Tensor, *arrays: tf.TensorArray) -> list[Any]:
        texts = different[number * _CHUNK_TITLES : (number + 1) * _CHUNK_TITLES]
        vectors = _encode(encoders, texts)
        written = [array.write(number, part) for array, part in zip(arrays, vectors, strict=True)]
        return [number + 1, *written]

    _, *arrays = tf.while_loop(
        lambda number, *_: number < chunks, encode_chunk, [tf.constant(0), *arrays], parallel_iterations=1
    )
    return [tf.gather(array.concat(), place) for array in arrays]  # [M, D]


def _encode(
    encoders: Sequence[Any],
    titles: tf.Tensor,
    abstracts: tf.Tensor | None = None,
    categories: Sequence[dict[str, tf.Tensor]] = ({}, {}),
) -> list[tf.Tensor]:
    """Vectors from each encoder: float32 [n, D]; frozen layers that they share are computed once."""
    found = []
    features: dict[Any, Any] = {}
    for encoder, known in zip(encoders, categories, strict=False):
        whole = abstracts is not None and encoder.use_abstract
        key = (id(encoder.frozen), whole)
        if key not in features:
            texts = tf.strings.strip(tf.strings.join([titles, abstracts], " ")) if whole else titles
            features[key] = encoder.text_features(texts)
        found.append(encoder({**features[key], **known}, training=False))
    return found


def _vectors(dimension: int) -> tf.TensorSpec:
    return tf.TensorSpec([None, None, dimension], tf.float32)


def _traced(function: Callable[..., Any], *inputs: tf.TensorSpec) -> Any:
    return tf.function(lambda *tensors: function(*tensors), input_signature=inputs, autograph=False)
