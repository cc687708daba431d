"""The news tower's inputs for each article, as arrays: token states, category, subcategory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.hidden_states import HiddenStates, hidden_states
from genre_tf.config import NewsConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.models.backbone import NewsBackbone

Features = dict[str, Any]


def article_texts(titles: Sequence[str], abstracts: Sequence[str], config: NewsConfig) -> list[str]:
    """The text of each article for BERT: the title, followed by the abstract if there is one."""
    if not config.use_abstract:
        return list(titles)
    return [f"{title} {abstract}".strip() for title, abstract in zip(titles, abstracts, strict=True)]


@dataclass(frozen=True)
class ArticleFeatures:
    """Features of every row of an article table.

    Attributes:
        states: token states (or ids) of the articles' texts.
        categories: int32 [N], 0 if unknown.
        subcategories: int32 [N], 0 if unknown.
    """

    states: HiddenStates
    categories: npt.NDArray[np.int32]
    subcategories: npt.NDArray[np.int32]

    @classmethod
    def of(
        cls,
        table: ArticleTable,
        backbone: NewsBackbone,
        cache: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        needed: npt.NDArray[np.bool_] | None = None,
    ) -> "ArticleFeatures":
        """Features of the articles of a table.

        Args:
            table: N articles, the padding article first.
            backbone: tokenizer and frozen layers.
            cache: folder where states are stored and reused.
            on_progress: called with (articles done, all articles).
            needed: bool [N]; other articles get no text, because encoding text is expensive.
        """
        config = backbone.config
        texts = article_texts(table.titles, table.abstracts, config)
        if needed is not None:
            texts = [text if wanted else "" for text, wanted in zip(texts, needed, strict=True)]
        states = hidden_states(
            texts,
            backbone.bert.tokenizer,
            backbone.lower,
            config.max_title_tokens,
            cache,
            backbone.identity,
            on_progress,
        )
        return cls(
            states, backbone.categories.rows(table.categories), backbone.categories.rows(table.subcategories)
        )

    def gather(self, rows: npt.NDArray[np.integer]) -> Features:
        """Features of rows: states [U, T, hidden], mask bool [U, T], category, subcategory int32 [U]."""
        states, mask = self.states.gather(rows)
        return {
            "states": states,
            "mask": mask,
            "category": self.categories[rows],
            "subcategory": self.subcategories[rows],
        }

    def pipeline(self, batches: tf.data.Dataset, tokens: int | None = None) -> tf.data.Dataset:
        """Batches with the features of their articles, gathered outside the training step.

        Args:
            batches: batches from `impression_batches`.
            tokens: T, the same for every batch, at least the longest text's; None: the longest text of each
                batch.
        """

        # AutoGraph would convert this whole class for one method that does not need it.
        @tf.autograph.experimental.do_not_convert
        def join(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return self.join(batch, tokens)

        return batches.map(join, num_parallel_calls=2, deterministic=True).prefetch(2)

    def join(self, batch: dict[str, tf.Tensor], tokens: int | None = None) -> dict[str, tf.Tensor]:
        """Add the features of a batch's `articles` to it, in a `tf.data` pipeline on the host."""
        kind = tf.as_dtype(self.states.dtype)

        def look_up(rows: npt.NDArray[np.integer]) -> tuple[Any, ...]:
            found = self.gather(rows)
            if tokens is not None:
                found = {**found, **{name: _widened(found[name], tokens) for name in ("states", "mask")}}
            return tuple(found.values())

        outputs = tf.numpy_function(
            look_up, [batch["articles"]], [kind, tf.bool, tf.int32, tf.int32], stateful=False
        )
        articles = batch["articles"].shape[0]
        inner = [articles, tokens, *self.states.values.shape[1:]]
        shapes = (inner, [articles, tokens], [articles], [articles])
        for output, shape in zip(outputs, shapes, strict=True):
            output.set_shape(shape)
        names = ("states", "mask", "category", "subcategory")
        return {**batch, **{f"article_{name}": output for name, output in zip(names, outputs, strict=True)}}


def _widened(values: npt.NDArray[Any], tokens: int) -> npt.NDArray[Any]:
    """Padded with zeros to this many tokens: [U, t, ...] -> [U, tokens, ...]."""
    return np.pad(values, [(0, 0), (0, tokens - values.shape[1]), *[(0, 0)] * (values.ndim - 2)])


def batch_features(batch: dict[str, tf.Tensor]) -> Features:
    """The article features that `ArticleFeatures.join` put into a batch."""
    return {name: batch[f"article_{name}"] for name in ("states", "mask", "category", "subcategory")}
