"""The news backbone of a run: BERT, split below its trained layers, and the known categories."""

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
from genre_tf.backbones.precision import check_precision
from genre_tf.backbones.trainable import check_fits, parse_trainable
from genre_tf.config import NewsConfig
from genre_tf.errors import InputError


@dataclass(frozen=True)
class Categories:
    """Names of categories and subcategories; row 0 means unknown."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, *columns: Sequence[str]) -> "Categories":
        """All names that occur, sorted."""
        return cls(("", *sorted({name for column in columns for name in column} - {""})))

    def rows(self, names: Sequence[str]) -> npt.NDArray[np.int32]:
        """Rows of names, int32 [N]; 0 for an unknown name."""
        known = {name: row for row, name in enumerate(self.names)}
        return np.asarray([known.get(name, 0) for name in names], np.int32)


@dataclass(frozen=True)
class NewsBackbone:
    """What all stages share (tokenizer and frozen layers), and the layers of which each trains a copy.

    Attributes:
        bert: the complete BERT and its tokenizer.
        lower: the frozen layers below everything trained; None if no layer is frozen.
        upper: the trained layers, or the layers with trained additions.
        categories: the categories that the embedding knows.
        config: the settings of the news tower.
        identity: identifies these frozen weights, for caches.
    """

    bert: Bert
    lower: keras.Model | None
    upper: UpperLayers
    categories: Categories
    config: NewsConfig
    identity: str

    @functools.cached_property
    def text_features(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """A tower's inputs for raw text, string [N], with unknown categories.

        One traced function: a graph that reads text in several places contains the frozen layers once, and
        they are most of what must be loaded.
        """
        tokenizer, lower, width = self.bert.tokenizer, self.lower, self.config.max_title_tokens

        def features(texts: tf.Tensor) -> dict[str, tf.Tensor]:
            token_ids = tokenizer(texts, width)  # [texts, tokens]
            # [CLS] and [SEP] alone are not a text; an empty article must give the zero vector, as in a table.
            written = tf.strings.length(tf.strings.strip(texts)) > 0
            mask = (token_ids != tokenizer.pad_id) & written[:, None]
            unknown = tf.zeros_like(token_ids[:, 0])
            states = token_ids if lower is None else lower(token_ids)
            return {"states": states, "mask": mask, "category": unknown, "subcategory": unknown}

        return tf.function(features, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)  # type: ignore[no-any-return]

    @property
    def trained_parameters(self) -> int:
        """Number of parameters that a stage trains in its backbone, including additions to it."""
        return sum(int(np.prod(weight.shape)) for weight in self.upper.trainable_weights)

    def trained_share(self) -> str:
        """What is trained of the backbone: one line of progress."""
        mode, whole = self.config.trainable, self.bert.backbone.count_params()
        trained = self.trained_parameters
        return f"news backbone, {mode}: {trained:,} trained parameters; the backbone has {whole:,}"


def load_news_backbone(name: str | Path, config: NewsConfig, categories: Categories) -> NewsBackbone:
    """Load a BERT and split it as the settings say.

    Args:
        name: a backbone name in any form of `resolve_backbone`.
        config: which part of it is trained.
        categories: known categories and subcategories.

    Raises:
        InputError: there is no such backbone, or the settings do not fit it.
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
    """Check that the settings of the news tower are possible with a BERT.

    Raises:
        InputError: the way of training or the precision is unknown, or the BERT has fewer layers or tokens.
    """
    backbone = bert.backbone
    positions = backbone.max_sequence_length
    check_precision(config.precision)
    trainable = parse_trainable(config.trainable)
    check_fits(trainable, len(backbone.transformer_layers), backbone.hidden_dim, positions)
    if config.max_title_tokens > positions:
        raise InputError(
            f"news.max_title_tokens is {config.max_title_tokens}, but the news backbone reads at most "
            f"{positions} tokens; give at most that many, or another backbone"
        )


def _identity(lower: keras.Model | None) -> str:
    if lower is None:
        return "token ids"
    digest = hashlib.sha256()
    for weight in (*lower.embeddings.weights, *(w for block in lower.blocks for w in block.weights)):
        digest.update(np.asarray(weight).tobytes())
    return digest.hexdigest()
