"""A run's trained news tower as a function of articles; it returns the same bytes in any process."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import Article
from genre_tf.models.article_features import article_texts
from genre_tf.models.backbone import NewsBackbone
from genre_tf.models.checkpoint import BACKBONE_FOLDER, WEIGHTS_FILE, load_ranker, load_two_tower
from genre_tf.models.news_encoder import NewsEncoder

BATCH_ARTICLES = 1024
"""Rows encoded together, counted by row number and not by worker, so that all runners return equal bytes."""

_STEP_ARTICLES = 128  # with 32 tokens each, what two cores can process at once
_STAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "two_tower": ("retrieval", load_two_tower),
    "ranker": ("ranking", load_ranker),
}


class ArticleEncoder:
    """A trained news tower as a function of articles.

    Args:
        run: the run folder.
        model: `two_tower` or `ranker`.

    Raises:
        InputError: the run has not trained that model, or one of its files is missing or damaged.
    """

    def __init__(self, run: Path, model: str) -> None:
        _, load = _STAGES[model]
        encoder: NewsEncoder = load(run).encoder
        self._backbone: NewsBackbone = encoder.backbone
        self.dimension = encoder.dimension

        def encode(texts: tf.Tensor, category: tf.Tensor, subcategory: tf.Tensor) -> tf.Tensor:
            known = {"category": category, "subcategory": subcategory}
            return encoder.tower({**encoder.text_features(texts), **known}, training=False)

        rows = tf.TensorSpec([None], tf.int32)
        signature = [tf.TensorSpec([None], tf.string), rows, rows]
        self._encode = tf.function(encode, input_signature=signature, autograph=False)

    def __call__(self, articles: Sequence[Article]) -> npt.NDArray[np.float32]:
        """Encode articles from title, abstract and categories.

        Unlike `embed_articles`, which stores the frozen layers' states as float16 so that training can reuse
        them, this does not round anything.

        Args:
            articles: N articles; equal articles in the same order give equal bytes on equal machines.

        Returns:
            float32 [N, D].
        """
        vectors = np.zeros((len(articles), self.dimension), np.float32)
        for start in range(0, len(articles), BATCH_ARTICLES):
            batch = articles[start : start + BATCH_ARTICLES]
            vectors[start : start + len(batch)] = self._batch(batch)
        return vectors

    def _batch(self, articles: Sequence[Article]) -> npt.NDArray[np.float32]:
        config, categories = self._backbone.config, self._backbone.categories
        titles, abstracts = [one.title for one in articles], [one.abstract for one in articles]
        texts = np.asarray(article_texts(titles, abstracts, config), np.object_)
        category = categories.rows([one.category for one in articles])
        subcategory = categories.rows([one.subcategory for one in articles])
        vectors = np.zeros((len(articles), self.dimension), np.float32)
        # Texts of similar length together: a batch is padded to its longest.
        order = np.argsort([len(text) for text in texts], kind="stable")
        for start in range(0, len(order), _STEP_ARTICLES):
            rows = order[start : start + _STEP_ARTICLES]
            vectors[rows] = self._encode(tf.constant(texts[rows]), category[rows], subcategory[rows]).numpy()
        return vectors


def shard_name(shard: int, shards: int) -> str:
    """File name of a shard, such as `embeddings-00000-of-00003.npy`."""
    return f"embeddings-{shard:05d}-of-{shards:05d}.npy"


def write_vectors(encoder: ArticleEncoder, articles: Sequence[Article], path: Path) -> None:
    """Write the vectors of one shard; the bytes are the same in any process."""
    np.save(path, encoder(articles), allow_pickle=False)


def weights_file(model: str) -> str:
    """Where a run keeps the weights of a model, inside its folder."""
    return f"{_STAGES[model][0]}/{WEIGHTS_FILE}"


def run_members(model: str) -> list[str]:
    """The parts of a run folder that `ArticleEncoder` reads."""
    return ["config.toml", BACKBONE_FOLDER, weights_file(model)]
