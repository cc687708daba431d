"""The models of a recommender's SavedModel, read back from it.

With them `genre refresh` encodes new articles with the same weights that are served, and computes the
expected answers of the next version, without the run that the version was made from.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.errors import InputError
from genre_tf.export.attached import attached_values, load_attached
from genre_tf.funnel.served_models import ENCODER, click_logits


class ReadTwoTower:
    """The two-tower model of a SavedModel, with the functions that `RecommenderReference` needs."""

    def __init__(self, models: Any, encoder: "_ReadEncoder") -> None:
        self.encoder = encoder
        self.user_vector = models.user_vector
        self.query = models.query
        self.moment_bias = models.moment_bias


class ReadRanker:
    """The ranker of a SavedModel, with the functions that `RecommenderReference` needs."""

    def __init__(self, models: Any, encoder: "_ReadEncoder") -> None:
        self.encoder = encoder
        self.attention = models.attention
        self.pool_logits = models.pool_logits
        self._models = models

    def click_logits(
        self, history: tf.Tensor, mask: tf.Tensor, shown: tf.Tensor, shown_mask: tf.Tensor, counters: Any
    ) -> tf.Tensor:
        """The same as `Ranker.click_logits` without training."""
        return click_logits(self._models, history, mask, shown, shown_mask, counters)


class _ReadEncoder(NamedTuple):
    encode: Callable[[bytes], tuple[tf.Tensor, ...]]
    stage: int
    dimension: int

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        return self.encode(tf.io.serialize_tensor(texts).numpy())[self.stage]


def read_models(models: Any, dimensions: tuple[int, int]) -> tuple[ReadTwoTower, ReadRanker]:
    """Both models of a SavedModel; texts that one has encoded are not encoded again by the other.

    Args:
        models: a `ServedModels` that was read back.
        dimensions: D of the two-tower model's vectors, and R of the ranker's.
    """

    @functools.cache
    def encode(serialized: bytes) -> tuple[tf.Tensor, ...]:
        texts = tf.io.parse_tensor(serialized, tf.string)
        nothing = tf.fill(tf.shape(texts), "")
        return tuple(models.encode_articles(texts, nothing, nothing, nothing))

    in_retrieval, in_ranking = (_ReadEncoder(encode, *stage) for stage in enumerate(dimensions))
    return ReadTwoTower(models, in_retrieval), ReadRanker(models, in_ranking)


def read_served(version: Path, encodes: bool = True) -> tuple[Any, dict[str, Any]]:
    """Load an object whose `models` are a version's `ServedModels`, and the values of its `index`.

    Args:
        version: folder of the SavedModel.
        encodes: False: do not load the encoder of articles, which takes most of the loading time.

    Raises:
        InputError: they cannot be loaded, or were exported with another kind of index.
    """
    try:
        without = () if encodes else ENCODER
        return load_attached(version, "models", without), attached_values(version, "index")
    except (OSError, ValueError, tf.errors.OpError) as error:
        said = str(error).splitlines()[0][:200]
        raise InputError(f"{version} cannot be loaded ({said}): export again") from None
    except KeyError:
        raise InputError(f"{version} was exported by an earlier version of genre_tf: export again") from None
