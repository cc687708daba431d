"""The writer: a language model that writes for one reader, from raw strings to raw strings."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from genre_tf.backbones.language_models import LanguageModel, family_of, load_language_model
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.backbones.trainable import parse_trainable
from genre_tf.config import TaskSharesConfig, WritingConfig
from genre_tf.contract import KINDS
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.click_log import ClickLog
from genre_tf.data.learning_texts import NO_HISTORY, TextExample, learning_split
from genre_tf.errors import InputError
from genre_tf.generation.prompt_form import CONTROL_TOKENS, chat_frame
from genre_tf.generation.prompts import Prompts, PromptSizes
from genre_tf.generation.writer import WritingGraph, writer_options
from genre_tf.losses.tokens import mean_token_loss, token_losses
from genre_tf.models.impression_model import checked_titles
from genre_tf.models.news_encoder import bytes_or_str
from genre_tf.models.text_model import TextModel, is_preset
from genre_tf.models.text_rows import TextBatching, TextRows

_TOKENS_PER_ROW = 64  # tokens in a batch for each row of the batch size


@keras.saving.register_keras_serializable("genre_tf")
class Writer(TextModel):
    """A language model with prompts that hold titles of the reader's clicks, a source and the kind of text.

    Raw data of `fit` is a dict with `history` (a list of titles for each text), `source` and
    `kind` (strings);
    `y` holds the texts to learn. The loss is built in: cross-entropy of the next token, in nats.

    Args:
        language_model: a loaded language model; `from_preset` loads one by name.
        trained_layers: which part of the language model is trained: "none", "last 2", "all", "lora 8",
            "adalora 8", "adapters 16", "prefix 8", or one of the last four in some layers: "lora 8 last 2".
        max_tokens: longest prompt and text together; at most what the language model reads.
        prompt: longest length of each part, as in `PromptSizes`; None: divided from `max_tokens`.
        chat: the frame of the prompt, see `genre_tf.generation.prompt_form.chat_frame`; None: that of the
            language model's chat template; empty, or without a template: control tokens.
        common_words: words of the corpus that are not names, for grounding; empty: function words.
        word_weights: how much words say, for the choice of titles and sentences; see
            `genre_tf.generation.relevance.word_weights`.

    Raises:
        InputError: the settings do not fit the language model.

    Example:
        >>> writer = genre_tf.models.Writer.from_preset("tiny")
        >>> texts = writer.generate(history=[["Cup final tonight"]], source=["Snow on Monday."], samples=2)
        >>> len(texts[0])
        2
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        trained_layers: str = "all",
        max_tokens: int = 256,
        prompt: Mapping[str, int] | None = None,
        chat: Mapping[str, str] | None = None,
        common_words: Sequence[str] = (),
        word_weights: Mapping[str, float] | None = None,
        name: str = "writer",
    ) -> None:
        super().__init__(name=name)
        tokenizer = language_model.tokenizer
        self._config = json.dumps(language_model.config)  # a dict would be wrapped by Keras and TensorFlow
        self.trained_layers = trained_layers
        controls = [tokenizer.token_id(token) for token in CONTROL_TOKENS]
        self.language_model = LanguageLayers(
            language_model.backbone, parse_trainable(trained_layers), controls
        )
        self._word_weights = json.dumps(dict(word_weights or {}), ensure_ascii=False)
        self.prompts = prompts_of(language_model, max_tokens, prompt, chat, word_weights)
        self.common_words = tuple(common_words)
        self.adapted: str | None = None
        """SHA-256 of the weights of the adapted writer that preference learning began with; None without."""
        self._graph_for = functools.cache(self._new_graph)  # a graph that Keras does not track
        self.built = True

    @classmethod
    def from_preset(cls, preset: str | Path, *, trainable: str = "all", **arguments: Any) -> Self:
        """A writer on a language model, or one that `save_to_preset` wrote.

        Args:
            preset: "auto" (the pretrained model that is installed), "tiny", a folder, `hf://org/name`,
                `package:NAME/FILE.gguf`, or a Keras preset.
            trainable: which part of the language model is trained, see `trained_layers`; not for a saved
                writer.
            arguments: further arguments of `Writer`; not for a saved writer.

        Raises:
            InputError: there is no such language model, or the arguments do not fit it.
        """
        if is_preset(preset):
            if arguments or trainable != "all":
                raise InputError(f"{preset} is a saved writer and keeps its settings: give no arguments")
            return super().from_preset(preset)
        return cls(load_language_model(str(preset), CONTROL_TOKENS), trained_layers=trainable, **arguments)

    def get_config(self) -> dict[str, Any]:
        """The arguments of this writer, the language model as its configuration and vocabulary."""
        return {
            "name": self.name,
            "language_model": {**self.prompts.tokenizer.get_config(), "config": self.config},
            "trained_layers": self.trained_layers,
            "prompt": dataclasses.asdict(self.prompts.sizes),
            "chat": self.prompts.chat or {},
            "common_words": list(self.common_words),
            "word_weights": json.loads(self._word_weights),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """A writer with these arguments; its weights are new, even those of the language model."""
        described = config["language_model"]
        return cls(**{**config, "language_model": family_of(described["config"]).from_config(described)})

    @property
    def config(self) -> dict[str, Any]:
        """The language model's configuration, in Hugging Face's format."""
        return dict(json.loads(self._config))

    @property
    def backbone(self) -> Any:
        """The KerasHub backbone of the language model."""
        return self.language_model.backbone

    def trained_share(self) -> str:
        """How much is trained, and how large the language model is: one line of progress."""
        trained, whole = (
            sum(math.prod(weight.shape) for weight in weights)
            for weights in (self.trainable_weights, self.backbone.weights)
        )
        return (
            f"writer, {self.trained_layers}: {trained:,} trained parameters; the language model has {whole:,}"
        )

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Predict the next token at every position.

        Args:
            inputs: token_ids int32 [batch, time], padded on the right; optionally frozen_states float
                [batch, time, hidden], what the layers below the trained ones make of these ids.
            training: whether dropout is active.

        Returns:
            float32 [batch, time, vocabulary]: logits of the token after each.
        """
        return self.logits(self.states(inputs, training=training))

    def states(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Last hidden states of the tokens, float32 [batch, time, hidden]; arguments as in `call`."""
        below = inputs.get("frozen_states")
        if below is None:
            below = self.frozen_states(inputs["token_ids"])
        return self.language_model.trained_states(tf.cast(below, tf.float32), training)

    def frozen_states(self, token_ids: Any) -> Any:
        """What trained layers read: int32 [batch, time] -> float32 [batch, time, hidden]."""
        return self.language_model.frozen_states(self.language_model.embed(token_ids))

    def logits(self, states: Any) -> Any:
        """Logits of the next token: float32 [..., hidden] -> float32 [..., vocabulary]."""
        return self.language_model.logits(states)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Weighted mean cross-entropy of the tokens that count, in nats.

        Only their logits are computed: the graph that gives `y_pred` is left out by TensorFlow.
        """
        return mean_token_loss(token_losses(self, x, training))

    def batches(
        self, log: ClickLog, batch_size: int = 8, *, tasks: Mapping[str, float] | None = None, seed: int = 0
    ) -> Any:
        """Texts of a log to learn; see `ClickLog.texts`. A batch holds about 64 tokens for each row."""
        shares = dataclasses.asdict(TaskSharesConfig()) if tasks is None else dict(tasks)
        known = {field.name for field in dataclasses.fields(TaskSharesConfig)}
        if not shares.keys() <= known or min(shares.values(), default=0) < 0 or not sum(shares.values()):
            raise InputError(
                f"tasks must give shares above 0 to some of {', '.join(sorted(known))}; got {tasks}"
            )
        named = ArticleTable(
            article if wanted else dataclasses.replace(article, title="", abstract="")
            for article, wanted in zip(
                log.table.articles[1:], log.examples.named(len(log.table))[1:], strict=True
            )
        )
        texts = [text for text in learning_split(named, log.examples, [])[0] if shares.get(text.task)]
        if not texts:
            raise InputError(f"{log} has no text for the tasks {', '.join(shares)}")
        return TextRows(texts, log.table, self.prompts).batches(
            TextBatching(tokens=batch_size * _TOKENS_PER_ROW, shares=shares), seed=seed, epochs=None
        )

    def batches_of_texts(self, x: Any, y: Any, batch_size: int, shuffle: bool) -> Any:
        """Batches of raw strings: histories, sources, kinds and the texts to learn."""
        if not isinstance(x, dict) or set(x) != {"history", "source", "kind"}:
            found = sorted(x) if isinstance(x, dict) else type(x).__name__
            raise InputError(
                f"raw data is a dict of history, source and kind, a value for each text; got {found}"
            )
        histories, sources, kinds = self._checked_inputs(x["history"], x["source"], x["kind"])
        if y is None or len(y) != len(sources):
            raise InputError(f"{len(sources)} sources need as many texts to learn; got {y!r:.80}")
        titles = list(dict.fromkeys(title for history in histories for title in history))
        row_of = {title: number for number, title in enumerate(titles, 1)}
        table = ArticleTable(Article(str(row_of[title]), "", "", title, "") for title in titles)
        texts = []
        for history, source, kind, target in zip(histories, sources, kinds, y, strict=True):
            rows = np.asarray([row_of[title] for title in history], np.int32) if history else NO_HISTORY
            texts.append(TextExample(kind, rows, source, bytes_or_str(target), 0))
        batching = TextBatching(tokens=batch_size * _TOKENS_PER_ROW, drop_reader=0.0, context_weight=0.0)
        return TextRows(texts, table, self.prompts).batches(batching, seed=0 if shuffle else None)

    def data_identity(self) -> tuple[Any, ...]:
        """What batches depend on: the vocabulary and the lengths."""
        tokenizer = self.prompts.tokenizer
        return (type(self).__name__, tokenizer.vocabulary_size, self.prompts.sizes, self.prompts.chat)

    def generate(
        self,
        history: Sequence[Sequence[str]],
        source: Sequence[str],
        kind: str | Sequence[str] = "title",
        *,
        samples: int = 4,
        seed: int = 0,
    ) -> list[list[str]]:
        """Write texts, the best grounded and likeliest first, unsafe ones last.

        Args:
            history: for each reader the titles of clicks, oldest first; empty for a new reader.
            source: for each reader an article to write from; "" to write from interest alone.
            kind: "title", "summary" or "body", for all or for each.
            samples: number of texts for each reader.
            seed: the same seed gives the same texts.

        Returns:
            A list of `samples` texts for each reader.

        Raises:
            InputError: the lists differ in length, a kind is unknown, or a text is no string.
        """
        kinds = [kind] * len(source) if isinstance(kind, str) else kind
        histories, sources, kinds = self._checked_inputs(history, source, kinds)
        if samples < 1:
            raise InputError(f"samples must be at least 1; got {samples}")
        graph = self._graph_for(samples)
        graph.refresh()  # the weights may have changed since
        written = graph(
            tf.constant(["\n".join(" ".join(title.split()) for title in titles) for titles in histories]),
            tf.constant(list(sources)),
            tf.constant(list(kinds)),
            tf.range(len(sources), dtype=tf.int64) + tf.constant(seed, tf.int64),
            lambda texts: tf.zeros(tf.shape(texts)),  # no click model
        )
        return [[text.decode("utf-8") for text in row] for row in written.text.numpy()]

    def _new_graph(self, samples: int) -> WritingGraph:
        return WritingGraph(self, writer_options(WritingConfig(samples=samples), self.prompts))

    def _checked_inputs(self, history: Any, source: Any, kind: Any) -> tuple[Any, list[str], list[str]]:
        histories = checked_titles(history, "history")
        sources, kinds = ([bytes_or_str(text) for text in column] for column in (source, kind))
        if not len(histories) == len(sources) == len(kinds):
            raise InputError(
                f"history has {len(histories)} rows, source {len(sources)}, kind {len(kinds)}: give one each"
            )
        for each in kinds:
            if each not in KINDS:
                raise InputError(f"kind must be one of {', '.join(KINDS)}; got {each!r}")
        return histories, sources, kinds


def prompts_of(
    language_model: LanguageModel,
    max_tokens: int,
    prompt: Mapping[str, int] | None = None,
    chat: Mapping[str, str] | None = None,
    word_weights: Mapping[str, float] | None = None,
) -> Prompts:
    """The prompts of a language model, with these lengths of their parts, or divided from `max_tokens`.

    Raises:
        InputError: `max_tokens`, or the model's positions, leave no room for a prompt.
    """
    tokenizer = language_model.tokenizer
    found = chat_frame(language_model.folder) if chat is None else chat
    frame = found if found and found["end"] in tokenizer.special_tokens else None
    room = min(max_tokens, language_model.backbone.max_sequence_length)
    try:
        return Prompts(tokenizer, PromptSizes(**prompt) if prompt else None, frame, room, word_weights)
    except ValueError as error:
        raise InputError(f"generation.max_tokens: {error}") from None
