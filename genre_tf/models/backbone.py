"""The news backbone of a run: BERT, cut below its trained layers, and the categories that were trained."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.bert import Bert, load_bert
from genre_tf.backbones.layers import UpperLayers, split_layers
from genre_tf.backbones.parameter_counts import trained_parameters
from genre_tf.backbones.precision import check_precision
from genre_tf.backbones.trainable import check_fits, parse_trainable
from genre_tf.config import NewsConfig
from genre_tf.errors import InputError


@dataclass(frozen=True)
class Categories:
    """Names of categories and subcategories; row 0 is the unknown one."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, *columns: Sequence[str]) -> "Categories":
        """All names that occur, sorted."""
        return cls(("", *sorted({name for column in columns for name in column} - {""})))

    def rows(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        """Rows of names, int32 [N]; 0 for a name that was not trained."""
        known = {name: row for row, name in enumerate(self.names)}
        return np.asarray([known.get(name, 0) for name in names], np.int32)


@dataclass(frozen=True)
class NewsBackbone:
    """What every stage shares: tokenizer and frozen layers; and what each trains a copy of.

    Attributes:
        bert: the whole BERT and its tokenizer.
        lower: the frozen layers below everything trained; None when no layer is.
        upper: its trained layers, or those that something trained is added to.
        categories: what the embedding of categories knows.
        config: the settings of the news tower.
        identity: names these frozen weights, for caches.
    """

    bert: Bert
    lower: keras.Model | None
    upper: UpperLayers
    categories: Categories
    config: NewsConfig
    identity: str

    @functools.cached_property
    def text_features(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """What a tower reads of raw text, string [N], categories unknown.

        One traced function: a graph that reads text in several places holds the frozen layers once, which is
        most of what there is to load.
        """
        tokenizer, lower, width = self.bert.tokenizer, self.lower, self.config.max_title_tokens

        def features(texts: tf.Tensor) -> dict[str, tf.Tensor]:
            token_ids = tokenizer(texts, width)  # [texts, tokens]
            # [CLS] and [SEP] alone are no text; an empty article must be the zero vector as in a table.
            written = tf.strings.length(tf.strings.strip(texts)) > 0
            mask = (token_ids != tokenizer.pad_id) & written[:, None]
            unknown = tf.zeros_like(token_ids[:, 0])
            states = token_ids if lower is None else lower(token_ids)
            return {"states": states, "mask": mask, "category": unknown, "subcategory": unknown}

        return tf.function(features, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)  # type: ignore[no-any-return]

    @property
    def trained_parameters(self) -> int:
        """Number of values that a stage trains of its backbone, or beside it."""
        return trained_parameters(self.bert.backbone, parse_trainable(self.config.trainable))

    def trained_share(self) -> str:
        """What is trained of the backbone, in one line for the progress of a training."""
        mode, whole = self.config.trainable, self.bert.backbone.count_params()
        trained = self.trained_parameters
        return f"news backbone, {mode}: {trained:,} trained parameters beside {whole:,} in all"


def load_news_backbone(name: str | Path, config: NewsConfig, categories: Categories) -> NewsBackbone:
    """Load a BERT and cut it as the settings say.

    Args:
        name: any of the ways to name a backbone.
        config: how much of it is trained.
        categories: known categories and subcategories.

    Raises:
        InputError: no such backbone, or settings that do not fit it.
    """
    bert = load_bert(str(name), dropout=config.dropout)
    check_news(bert, config)
    lower, upper = split_layers(
        bert.backbone,
        parse_trainable(config.trainable),
        bert.tokenizer.pad_id,
        precision=config.precision,
    )
    return NewsBackbone(bert, lower, upper, categories, config, _identity(lower))


def check_news(bert: Bert, config: NewsConfig) -> None:
    """See that the settings of the news tower can be had with a BERT.

    Raises:
        InputError: an unknown way of training or precision, or more layers, values or tokens than it has.
    """
    backbone = bert.backbone
    positions = backbone.max_sequence_length
    check_precision(config.precision)
    trainable = parse_trainable(config.trainable)
    check_fits(trainable, len(backbone.transformer_layers), backbone.hidden_dim, positions)
    if config.max_title_tokens > positions:
        raise InputError(
            f"news.max_title_tokens is {config.max_title_tokens}, and the news backbone reads at most "
            f"{positions} tokens: give so many, or another backbone"
        )


def _identity(lower: keras.Model | None) -> str:
    if lower is None:
        return "token ids"
    digest = hashlib.sha256()
    for weight in (*lower.embeddings.weights, *(w for block in lower.blocks for w in block.weights)):
        digest.update(np.asarray(weight).tobytes())
    return digest.hexdigest()
