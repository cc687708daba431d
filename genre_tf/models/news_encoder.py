"""The news encoder: the one road from an article, as strings, to its vector."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.bert import BERT, Bert, load_bert
from genre_tf.backbones.layers import in_chunks, split_layers
from genre_tf.backbones.trainable import check_fits, check_precision, parse_trainable
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.errors import InputError
from genre_tf.models.article_features import (
    ArticleFeatures,
    FrozenText,
    Progress,
    article_texts,
    by_length,
    hidden_states,
)
from genre_tf.models.attention_pooling import AttentionPooling
from genre_tf.models.interest_space import InterestSpace
from genre_tf.models.text_model import TextModel, is_preset

# Every token of a batch passes through it: a wider layer costs much and gained little (measured).
_POOLING_WIDTH = 64
# The projection has more weights than a small log has clicks, so it moves slower than the rest.
_PROJECTION_PACE = 0.1
_BATCH_FEATURES = 512  # articles whose frozen layers are already computed

Vectors = npt.NDArray[np.float32]


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


@keras.saving.register_keras_serializable("genre_tf")
class NewsEncoder(TextModel):
    """Articles to vectors: BERT, attention pooling, a projection, and category embeddings.

    The text part has length one, so that dot products of untrained vectors are the cosines that sentence
    encoders were made for. The projection is the identity plus a matrix that starts at zero, so that decay
    pulls towards the pretrained space instead of zero. The interest part, also of length one, holds the same
    text in the directions that distinguish readers; it is zero until `adapt` sets them. Each category part
    starts small: the same category adds about `0.4 ** 2` to a dot product, different categories almost
    nothing. An unknown category is a zero vector, so that a vector made from text alone stays comparable.

    Args:
        bert: a loaded BERT; `from_preset` loads one by name.
        trained_layers: which part of the BERT is trained: "none", "last 2", "all", "lora 8", "lora 8 last 2",
            "adapter 16", "prefix 8".
        max_tokens: T; longer texts are cut.
        use_abstract: whether an article's abstract follows its title.
        categories: names of categories and subcategories that get an embedding; empty: text only.
        category_dimension: width of each category part.
        interest_dimension: width of the interest part; 0: none.
        reduced_dimension: D, the width to which vectors are reduced; 0: not reduced.
        dropout: dropout rate in training.
        precision: policy of the trained BERT layers: "float32", "mixed_bfloat16" or "mixed_float16".
        chunk: articles per pass through the trained layers, which bounds memory; 0: all at once.
        frozen: tokenizer and frozen layers of another encoder with the same BERT, to share.

    Raises:
        InputError: the settings do not fit the BERT.

    Example:
        >>> news = genre_tf.models.NewsEncoder.from_preset("tiny")
        >>> vectors = news.predict(["Storm closes schools", "Cup final tonight"], verbose=0)
        >>> vectors.shape == (2, news.dimension)
        True

    Source: Wu et al., "Empowering News Recommendation with Pre-trained Language Models", 2021.
    """

    def __init__(
        self,
        bert: Bert,
        *,
        trained_layers: str = "none",
        max_tokens: int = 32,
        use_abstract: bool = True,
        categories: Sequence[str] = (),
        category_dimension: int = 32,
        interest_dimension: int = 128,
        reduced_dimension: int = 0,
        dropout: float = 0.1,
        precision: str = "float32",
        chunk: int = 128,
        frozen: FrozenText | None = None,
        name: str = "news_encoder",
    ) -> None:
        super().__init__(name=name)
        check_encoder(bert, trained_layers, max_tokens, precision)
        hidden = int(bert.backbone.hidden_dim)
        self.bert = bert if frozen is None else replace(bert, tokenizer=frozen.tokenizer)
        self.categories = Categories.of(categories)
        self.use_abstract = use_abstract
        self._arguments: dict[str, Any] = {
            "trained_layers": trained_layers,
            "max_tokens": max_tokens,
            "use_abstract": use_abstract,
            "category_dimension": category_dimension,
            "interest_dimension": interest_dimension,
            "reduced_dimension": reduced_dimension,
            "dropout": dropout,
            "precision": precision,
            "chunk": chunk,
        }
        trainable, pad_id = parse_trainable(trained_layers), bert.tokenizer.pad_id
        lower, self.upper = split_layers(bert.backbone, trainable, pad_id, precision=precision)
        self.frozen = frozen or FrozenText(bert, lower, max_tokens)
        self.chunk = chunk if self.upper.blocks else 0  # without trained layers, little is kept
        self.text_dimension = hidden
        self.pooling = AttentionPooling(_POOLING_WIDTH, name="pooling")
        self.dropout = keras.layers.Dropout(dropout)
        self.projection = keras.layers.Dense(
            hidden, use_bias=False, kernel_initializer="zeros", name="projection"
        )
        self.category: keras.layers.Embedding | None = None
        self.subcategory: keras.layers.Embedding | None = None
        named = len(self.categories.names) > 1  # a log may name no category at all
        if named:
            start = keras.initializers.RandomNormal(stddev=0.4 / category_dimension**0.5, seed=1)
            self.category, self.subcategory = (
                keras.layers.Embedding(
                    len(self.categories.names), category_dimension, embeddings_initializer=start, name=part
                )
                for part in ("category", "subcategory")
            )
        self.interest_dimension = min(interest_dimension, hidden)
        interest = (self.interest_dimension,) * (self.interest_dimension > 0)
        self.parts = (hidden, *interest, *2 * (category_dimension,) * named)
        self.reduced = 0 if reduced_dimension >= sum(self.parts) else reduced_dimension
        self._build_layers(hidden)
        rows = tf.TensorSpec([None], tf.int32)
        strings = [tf.TensorSpec([None], tf.string), rows, rows]

        def of_strings(texts: tf.Tensor, category: tf.Tensor, subcategory: tf.Tensor) -> tf.Tensor:
            features = {**self.frozen(texts), "category": category, "subcategory": subcategory}
            return self(features, training=False)

        self._of_strings = tf.function(of_strings, input_signature=strings, autograph=False)
        self._over_tables = {
            "vectors": (tf.function(lambda batch: self(batch), autograph=False), self.dimension),
            "whole": (tf.function(lambda batch: self.whole(batch), autograph=False), sum(self.parts)),
            "text": (tf.function(lambda batch: self.text_vectors(batch), autograph=False), hidden),
        }
        self.built = True

    def _build_layers(self, hidden: int) -> None:
        self.pooling.build((None, None, hidden))
        self.projection.build((None, hidden))
        for embedding in (self.category, self.subcategory):
            if embedding is not None:
                embedding.build((None,))
        self.centre = self.add_weight(name="centre", shape=(hidden,), initializer="zeros", trainable=False)
        if self.interest_dimension:
            shape = (hidden, self.interest_dimension)
            self.interest = self.add_weight(
                name="interest", shape=shape, initializer="zeros", trainable=False
            )
        if self.reduced:
            self.directions = self.add_weight(
                name="directions",
                shape=(sum(self.parts), self.reduced),
                initializer=keras.initializers.Orthogonal(seed=1),  # keeps dot products until `reduce`
                trainable=False,
                autocast=False,  # the parts are float32 under every policy
            )

    @property
    def dimension(self) -> int:
        """D, the width of an article's vector."""
        return self.reduced or sum(self.parts)

    def topic_part(self, vectors: Any) -> Any:
        """Which part of vectors, [..., D], tells what a text is about: of length 1 or 0, [..., hidden].

        Of a reduced vector that is the whole, whatever its length.
        """
        return vectors if self.reduced else vectors[..., : self.parts[0]]

    @property
    def max_tokens(self) -> int:
        """T, the longest text in tokens."""
        return self.frozen.max_tokens

    @classmethod
    def from_preset(cls, preset: str | Path, *, trainable: str = "none", **arguments: Any) -> Self:
        """A news encoder on a BERT, or one that `save_to_preset` wrote.

        Args:
            preset: "tiny", a folder, `hf://org/name`, `package:NAME/FOLDER`, or a Keras preset.
            trainable: which part of the BERT is trained, see `trained_layers`; not for a saved encoder.
            arguments: further arguments of `NewsEncoder`; not for a saved encoder.

        Raises:
            InputError: there is no such BERT, or the arguments do not fit it.
        """
        if is_preset(preset):
            if arguments or trainable != "none":
                raise InputError(f"{preset} is a saved encoder and keeps its settings: give no arguments")
            return super().from_preset(preset)
        bert = load_bert(str(preset), dropout=arguments.get("dropout", 0.1))
        return cls(bert, trained_layers=trainable, **arguments)

    def get_config(self) -> dict[str, Any]:
        """The arguments of this encoder, the BERT as its configuration and vocabulary."""
        names = list(self.categories.names[1:])
        return {"name": self.name, "bert": self.bert.get_config(), "categories": names, **self._arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """An encoder with these arguments; its weights are new, even those of the BERT."""
        return cls(**{**config, "bert": BERT.from_config(config["bert"], config["dropout"])})

    def own_copy(self, reduced_dimension: int = 0) -> "NewsEncoder":
        """An encoder with the same weights, that shares the frozen layers and has its own trained ones.

        `reduced_dimension` is D of the copy; 0: not reduced.
        """
        config = {**self.get_config(), "reduced_dimension": reduced_dimension}
        config["bert"] = BERT.from_config(config["bert"], config["dropout"])
        config["bert"].backbone.set_weights(self.bert.backbone.get_weights())
        copy = NewsEncoder(**config, frozen=self.frozen)
        for ours, theirs in zip(copy.own_weights(), self.own_weights(), strict=True):
            ours.assign(theirs)
        if copy.reduced and copy.reduced == self.reduced:
            copy.directions.assign(self.directions)
        return copy

    def own_weights(self) -> list[Any]:
        """All weights except frozen layers and the directions of a reduction."""
        left = [*self.frozen.weights, *([self.directions] if self.reduced else [])]
        ids = {id(weight) for weight in left}
        return [weight for weight in self.weights if id(weight) not in ids]

    def frozen_layers(self) -> list[Any]:
        """The layers that no training changes."""
        return [self.frozen]

    def trained_share(self) -> str:
        """What is trained of the BERT: one line of progress."""
        mode, whole = self._arguments["trained_layers"], self.bert.backbone.count_params()
        trained = sum(math.prod(weight.shape) for weight in self.upper.trainable_weights)
        return f"news backbone, {mode}: {trained:,} trained parameters; the backbone has {whole:,}"

    def adapt(self, space: InterestSpace) -> None:
        """Set the centre and the interest directions, measured on histories with untrained `text_vectors`."""
        self.centre.assign(space.centre)
        if self.interest_dimension:
            self.interest.assign(space.kernel)

    def reduce(self, directions: Any) -> None:
        """Set the directions that vectors are reduced to, float32 [sum of parts, D]."""
        self.directions.assign(directions)

    def text_features(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Inputs of `call` for raw text with unknown categories: string [N]."""
        features = self.frozen(texts)
        unknown = tf.zeros_like(features["mask"][:, 0], tf.int32)
        return {**features, "category": unknown, "subcategory": unknown}

    def call(self, features: Any, training: bool | None = None) -> tf.Tensor:
        """Encode articles.

        Args:
            features: strings [U]; or a dict with states [U, T, hidden] (or of the real tokens only,
                [tokens, hidden], or token ids [U, T]), mask bool [U, T], category and subcategory int32 [U].
            training: whether dropout is active.

        Returns:
            float32 [U, D]; a zero vector for an article without text and category.
        """
        if not isinstance(features, dict):
            features = self.text_features(features)
        whole = self.whole(features, training)
        return whole @ self.directions if self.reduced else whole

    def whole(self, features: dict[str, Any], training: bool | None = None) -> tf.Tensor:
        """All parts before reduction: features as in `call` -> float32 [U, sum of parts]."""
        text = self.text_vectors(features, training)  # [articles, hidden]
        has_text = tf.reduce_any(features["mask"], axis=1)[:, None]
        centred = tf.where(has_text, text - self.centre, tf.zeros_like(text))
        parts = [tf.math.l2_normalize(centred, axis=-1)]
        if self.interest_dimension:
            parts += [tf.math.l2_normalize(centred @ self.interest, axis=-1)]
        if self.category is not None:
            parts += [_known(self.category, features["category"])]
            parts += [_known(self.subcategory, features["subcategory"])]
        return tf.concat(parts, axis=-1)

    def text_vectors(self, features: dict[str, Any], training: bool | None = None) -> tf.Tensor:
        """Text vectors, not centred: features as in `call` -> float32 [U, hidden], of length one or zero."""
        states, mask = features["states"], features["mask"]
        if self.upper.blocks and states.dtype != tf.int32 and states.shape.rank == 2:  # it needs padding
            shape = tf.concat([tf.shape(mask, tf.int64), tf.shape(states, tf.int64)[1:]], 0)
            states = tf.ensure_shape(
                tf.scatter_nd(tf.where(mask), states, shape), [*mask.shape, *states.shape[1:]]
            )
        if not training or not self.chunk:
            return self._text_vectors(states, mask, training)
        layers = [self.upper, self.pooling, self.dropout, self.projection]
        return in_chunks(
            lambda states, mask: self._text_vectors(states, mask, True), layers, [states, mask], self.chunk
        )

    def _text_vectors(self, states: tf.Tensor, mask: tf.Tensor, training: bool | None) -> tf.Tensor:
        if states.dtype != tf.int32:
            states = tf.cast(states, self.compute_dtype)
        if states.dtype != tf.int32 and states.shape.rank == 2:  # of the real tokens only
            pooled = self.pooling.of_unpadded(states, mask)  # [articles, hidden]
        else:
            states = self.upper(states, mask=mask, training=training)  # [articles, tokens, hidden]
            pooled = self.pooling(states, mask)
        projected = pooled + _PROJECTION_PACE * self.projection(self.dropout(pooled, training=training))
        return tf.cast(tf.math.l2_normalize(projected, axis=-1), tf.float32)

    # From here on: whole tables and lists, batched by length.

    def features(
        self,
        table: ArticleTable,
        cache: Path | None = None,
        on_progress: Progress | None = None,
        needed: npt.NDArray[np.bool_] | None = None,
    ) -> ArticleFeatures:
        """Inputs of `call` for every article of a table, with the frozen layers computed; see there."""
        texts = article_texts(table.titles, table.abstracts, self.use_abstract)
        if needed is not None:
            texts = [text if wanted else "" for text, wanted in zip(texts, needed, strict=True)]
        category, subcategory = map(self.categories.rows, (table.categories, table.subcategories))
        identity = self.frozen.identity() if cache is not None else ""
        states = hidden_states(texts, self.frozen.states, cache, identity, on_progress)
        return ArticleFeatures(states, category, subcategory)

    def embed(
        self,
        features: ArticleFeatures,
        rows: npt.NDArray[np.integer] | None = None,
        part: Literal["vectors", "whole", "text"] = "vectors",
    ) -> Vectors:
        """Encode articles of a table, float32 [N, D], or its rows [M] only; row 0, the padding, is zeros.

        Or vectors before they are reduced, [N, sum of parts] ("whole"), or of the text alone, not centred,
        [N, hidden] ("text").
        """
        encode, width = self._over_tables[part]
        lengths = np.diff(features.states.offsets)
        rows = np.arange(len(lengths)) if rows is None else rows
        order = np.argsort(lengths[rows], kind="stable")
        vectors = np.zeros((len(rows), width), np.float32)
        for start in range(0, len(order), _BATCH_FEATURES):
            places = order[start : start + _BATCH_FEATURES]
            batch = {name: tf.constant(value) for name, value in features.gather(rows[places]).items()}
            of_any_length = {  # one trace for all batches, however many articles and tokens they have
                name: tf.TensorSpec([None] * min(value.shape.rank, 2) + value.shape[2:], value.dtype)
                for name, value in batch.items()
            }
            vectors[places] = encode.get_concrete_function(of_any_length)(batch).numpy()
        return vectors

    def encode(self, articles: Sequence[str] | Sequence[Article]) -> Vectors:
        """Encode texts, or articles from title, abstract and categories; nothing is rounded.

        Args:
            articles: N strings or articles. Texts of similar length are encoded together.

        Returns:
            float32 [N, D]; zeros for an empty text.
        """
        if not len(articles):
            return np.zeros((0, self.dimension), np.float32)
        if isinstance(articles[0], Article):
            all_of: Sequence[Any] = articles
            texts = article_texts([a.title for a in all_of], [a.abstract for a in all_of], self.use_abstract)
            names = [a.category for a in all_of], [a.subcategory for a in all_of]
            known = [self.categories.rows(column) for column in names]
        else:
            texts = [bytes_or_str(text) for text in articles]
            known = [np.zeros(len(texts), np.int32)] * 2
        (vectors,) = by_length(lambda *batch: [self._of_strings(*batch)], [texts, *known])
        return vectors

    def predict(self, x: Any, batch_size: int | None = None, **options: Any) -> Any:
        """Vectors of strings or articles, float32 [N, D]; datasets as in Keras."""
        if isinstance(x, tf.data.Dataset):
            return super().predict(x, batch_size, **options)
        return self.encode(x)

    def batches_of_texts(self, x: Any, y: Any, batch_size: int, shuffle: bool) -> Any:
        """Strings [N] and wanted vectors float32 [N, D] as batches, for a loss between vectors."""
        rows = tf.data.Dataset.from_tensor_slices((tf.constant([bytes_or_str(text) for text in x]), y))
        rows = rows.shuffle(len(x), seed=0) if shuffle else rows
        return rows.batch(batch_size)

    def data_identity(self) -> tuple[Any, ...]:
        """Tokenizer, frozen layers, lengths and categories."""
        return (self.frozen.identity(), self.max_tokens, self.use_abstract, self.categories)


def bytes_or_str(text: Any) -> Any:
    """A text; an `InputError` if it is something else, such as a number."""
    if not isinstance(text, (str, bytes)):
        raise InputError(f"texts must be strings; got {text!r} ({type(text).__name__})")
    return text


def check_encoder(bert: Bert, trained_layers: str, max_tokens: int, precision: str) -> None:
    """Check that a news encoder with these settings is possible with a BERT; else an `InputError`."""
    backbone = bert.backbone
    positions = backbone.max_sequence_length
    check_precision(precision)
    trainable = parse_trainable(trained_layers)
    check_fits(trainable, len(backbone.transformer_layers), backbone.hidden_dim, positions)
    if max_tokens > positions:
        raise InputError(
            f"news.max_title_tokens is {max_tokens}, but the news backbone reads at most {positions} tokens; "
            "give at most that many, or another backbone"
        )


def _known(embedding: Any, rows: tf.Tensor) -> tf.Tensor:
    vectors = tf.cast(embedding(rows), tf.float32)  # [articles, width]
    return tf.where((rows > 0)[:, None], vectors, tf.zeros_like(vectors))
