"""Evidence for questions: search of the pool's articles by meaning, with a threshold of similarity.

It compares vectors of the two-tower model by cosine similarity; a question is encoded like a title.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.open_variables import open_variable
from genre_tf.funnel.parsing import clean_text

_SAMPLE = 1000  # number of articles that the threshold is measured on
_CHUNK_ROWS = 16_384  # rows compared with the sample at a time: 64 MB of similarities for a pool of any size
_LOOSEST = 0.05  # share of articles whose own nearest neighbour is less similar than the threshold


class Evidence(tf.Module):
    """Finds the articles that a question is about.

    Args:
        catalogue: the articles; articles without a title and repeated titles are left out.
        articles: maximum number of articles for one question.
        threshold: lowest cosine similarity; None: measure it with `closeness_threshold`.
    """

    def __init__(self, catalogue: Catalogue, articles: int = 3, threshold: float | None = None) -> None:
        super().__init__(name="evidence")
        self.articles = articles
        rows = _different_titles(catalogue.titles)
        vectors = _unit(catalogue.retrieval_vectors[rows])  # [N, D]
        threshold = closeness_threshold(vectors) if threshold is None else threshold
        self.threshold = tf.Variable(threshold, trainable=False, name="threshold", dtype=tf.float32)
        self.matrix = open_variable(np.ascontiguousarray(vectors.T), "matrix", open_axis=1)  # [D, N]
        self.news_ids, self.titles, self.texts = (
            open_variable(clean_text(tf.constant([column[row] for row in rows], tf.string)), name)
            for name, column in (
                ("news_ids", catalogue.news_ids),
                ("titles", catalogue.titles),
                ("texts", catalogue.texts),
            )
        )

    def search(self, questions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Exact search.

        Args:
            questions: float32 [B, D], vectors from the two-tower model's news tower.

        Returns:
            Rows int64 [B, E], nearest first, and bool [B, E], True for those that are close enough; E is
            `articles`.
        """
        similarity = tf.matmul(tf.math.l2_normalize(questions, axis=1), self.matrix)  # [B, N]
        found = tf.minimum(self.articles, tf.shape(similarity)[1])
        best, rows = tf.math.top_k(similarity, found)
        missing = tf.stack([[0, 0], [0, self.articles - found]])
        close = tf.pad(best >= self.threshold, missing)
        return tf.cast(tf.pad(rows, missing), tf.int64), tf.ensure_shape(close, [None, self.articles])

    def columns(self, rows: tf.Tensor, close: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Ids, titles and texts of the rows that `search` found, 3 x string [B, E]; "" where not close."""
        ids, titles, texts = (
            tf.where(close, tf.gather(column, rows), "")
            for column in (self.news_ids, self.titles, self.texts)
        )
        return ids, titles, texts


def closeness_threshold(vectors: npt.NDArray[np.float32], seed: int = 0) -> float:
    """How similar a question must be to an article, measured on the articles themselves.

    Nearly all articles of a pool have a neighbour about related news. If a question is farther from every
    article than that, no article is about it.

    Args:
        vectors: float32 [N, D], of length 1.
        seed: seed of the sample.

    Returns:
        The 5 % quantile of the articles' similarities to their nearest neighbours; 0 for fewer than two
        articles.
    """
    if len(vectors) < 2:
        return 0.0
    sample = np.random.default_rng(seed).permutation(len(vectors))[:_SAMPLE]
    nearest = np.full(len(sample), -1.0, np.float32)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        similarity = vectors[sample] @ vectors[start : start + _CHUNK_ROWS].T  # [sample, chunk]
        (itself,) = np.nonzero((sample >= start) & (sample < start + _CHUNK_ROWS))
        similarity[itself, sample[itself] - start] = -1.0
        nearest = np.maximum(nearest, similarity.max(axis=1))
    return float(np.quantile(nearest, _LOOSEST))


def _different_titles(titles: list[str]) -> list[int]:
    first: dict[str, int] = {}
    for row, title in enumerate(titles):
        if title.strip():
            first.setdefault(title.strip().casefold(), row)
    return list(first.values()) or [0]  # no titles at all: the row of the unknown article


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    length: Any = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, 1e-12)
