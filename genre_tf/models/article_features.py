"""The news tower's inputs for each article, as arrays: token states, category, subcategory."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.bert import Bert
from genre_tf.backbones.hidden_states import HiddenStates, StateEncoder, hidden_states

Features = dict[str, Any]


class FrozenText(keras.layers.Layer):
    """Tokenizer and frozen layers: strings to token states. Encoders of one BERT can share it.

    Args:
        bert: gives tokenizer and layers.
        lower: the layers below everything trained; None if no layer is frozen.
        max_tokens: longer texts are cut.
    """

    def __init__(self, bert: Bert, lower: keras.Model | None, max_tokens: int) -> None:
        super().__init__(name="frozen", trainable=False)
        self.tokenizer = bert.tokenizer
        self.lower = lower
        self.max_tokens = max_tokens
        self.states = StateEncoder(bert.tokenizer, lower, max_tokens)
        self._identity: str | None = None
        # One traced function: a graph that reads text in several places contains the frozen layers once, and
        # they are most of what must be loaded.
        signature = [tf.TensorSpec([None], tf.string)]
        self.features = tf.function(self._features, input_signature=signature, autograph=False)
        self.built = True

    def _features(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        token_ids = self.tokenizer(texts, self.max_tokens)  # [texts, tokens]
        # [CLS] and [SEP] alone are not a text; an empty article must give the zero vector, as in a table.
        written = tf.strings.length(tf.strings.strip(texts)) > 0
        mask = (token_ids != self.tokenizer.pad_id) & written[:, None]
        return {"states": token_ids if self.lower is None else self.lower(token_ids), "mask": mask}

    def call(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """States [N, T, hidden] (or token ids [N, T]) and mask bool [N, T] of strings [N]."""
        return self.features(texts)  # type: ignore[no-any-return]

    def identity(self) -> str:
        """Identifies tokenizer and frozen weights, for caches."""
        if self._identity is None:
            digest = hashlib.sha256()
            if self.lower is not None:
                for weight in (
                    *self.lower.embeddings.weights,
                    *(w for b in self.lower.blocks for w in b.weights),
                ):
                    digest.update(np.asarray(weight).tobytes())
            self._identity = "token ids" if self.lower is None else digest.hexdigest()
        return self._identity


def article_texts(titles: Sequence[str], abstracts: Sequence[str], use_abstract: bool) -> list[str]:
    """The text of each article for BERT: the title, followed by the abstract if there is one."""
    if not use_abstract:
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
        texts: Sequence[str],
        categories: npt.NDArray[np.int32],
        subcategories: npt.NDArray[np.int32],
        frozen: Any,
        cache: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> "ArticleFeatures":
        """Features of articles; `NewsEncoder.features` calls this for a table.

        Args:
            texts: N texts, the padding article first; an empty one has no tokens.
            categories: int32 [N].
            subcategories: int32 [N].
            frozen: tokenizer and frozen layers, a `FrozenText`.
            cache: folder where states are stored and reused.
            on_progress: called with (articles done, all articles).
        """
        identity = frozen.identity() if cache is not None else ""
        states = hidden_states(
            texts,
            frozen.tokenizer,
            frozen.lower,
            frozen.max_tokens,
            cache,
            identity,
            on_progress,
            frozen.states,
        )
        return cls(states, categories, subcategories)

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
