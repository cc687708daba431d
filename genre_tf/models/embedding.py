"""Vectors of complete article tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.models.article_features import ArticleFeatures
from genre_tf.models.news_encoder import NewsEncoder


def embed_articles(
    encoder: NewsEncoder,
    table: ArticleTable,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Encode every article of a table from title, abstract and categories.

    Args:
        encoder: encoder of a two-tower model or a ranker.
        table: N articles, row 0 the padding article.
        cache: stores the states of the frozen layers; models with the same backbone share them.
        on_progress: called with (articles done, all articles).

    Returns:
        float32 [N, D]; row 0 is zeros.
    """
    return encoder.embed(ArticleFeatures.of(table, encoder.backbone, cache, on_progress))
