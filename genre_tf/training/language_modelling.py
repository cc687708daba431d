"""The model that pretraining trains and measures: a language model, its tokenizer, and batches of texts."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tf.backbones.bert import BERT, Bert, load_bert, new_bert, save_bert
from genre_tf.backbones.language_models import END_OF_TEXT, load_language_model, new_gpt2, save_language_model
from genre_tf.backbones.language_models import LanguageModel as Checkpoint
from genre_tf.backbones.weights import write_weights
from genre_tf.config import NewsConfig, PretrainConfig
from genre_tf.data.corpus import NewsTexts
from genre_tf.losses.replicas import sum_over_replicas
from genre_tf.metrics.text import TextLoss
from genre_tf.models.packed_models import Batch, CausalLanguageModel, MaskedLanguageModel, head_weights
from genre_tf.text.byte_pair import train_byte_pair
from genre_tf.text.wordpiece import learn_wordpiece
from genre_tf.training.learner import Learner
from genre_tf.training.ngram_targets import SmoothedNgrams
from genre_tf.training.packed_batches import TokenTexts, causal_texts, masked_texts, measured_batches

NEW = "new"  # instead of a checkpoint's name
_MEASURED_ROWS = 8  # rows in a batch: its logits over GPT-2's own vocabulary take about 400 MB


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A language model to pretrain.

    Attributes:
        model: returns logits for the labels of a batch.
        width: tokens in a row.
        tokenize: converts texts to the tokens that batches are packed from.
        save: writes a Hugging Face folder.
        name: name of the initial checkpoint; None for a new model.
    """

    model: keras.Model
    width: int
    tokenize: Callable[[Sequence[str]], TokenTexts]
    save: Callable[[Path], None]
    name: str | None

    @cached_property
    def measure(self) -> Callable[[Batch], tuple[tf.Tensor, tf.Tensor]]:
        """`summed_losses` of a batch without dropout, compiled once for all measurements."""
        return tf.function(lambda batch: summed_losses(self.model, batch, False), autograph=False)  # type: ignore[no-any-return]


def causal_language_model(
    config: PretrainConfig, corpus: Sequence[str], folder: Path, seed: int
) -> LanguageModel:
    """A named GPT-2, or a new one with a vocabulary of the corpus.

    Args:
        config: name of the model, or sizes of a new one.
        corpus: training texts.
        folder: where a new vocabulary is written.
        seed: seed of new weights.

    Raises:
        InputError: no such backbone, or the sizes do not fit each other.
    """
    checkpoint = config.backbone not in ("", NEW)
    if checkpoint:
        gpt2 = load_language_model(config.backbone, dropout=config.dropout, special_tokens=(END_OF_TEXT,))
        gpt2 = dataclasses.replace(gpt2, tokenizer=gpt2.tokenizer.with_known_words(corpus))
    else:
        gpt2 = _new_gpt2(config, corpus, folder, seed)
    width = min(config.max_tokens, gpt2.backbone.max_sequence_length)
    return LanguageModel(
        model=CausalLanguageModel(gpt2, config.precision),
        width=width,
        tokenize=lambda texts: causal_texts(texts, gpt2.tokenizer, width),
        save=lambda target: save_language_model(gpt2, target),
        name=config.backbone if checkpoint else None,
    )


def _new_gpt2(config: PretrainConfig, corpus: Sequence[str], folder: Path, seed: int) -> Checkpoint:
    return new_gpt2(
        train_byte_pair(corpus, config.vocabulary_size, (END_OF_TEXT,), folder),
        layers=config.layers,
        heads=config.heads,
        hidden=config.hidden,
        max_tokens=config.max_tokens,
        dropout=config.dropout,
        seed=seed,
    )


def masked_language_model(config: PretrainConfig, corpus: Sequence[str], seed: int) -> LanguageModel:
    """A named BERT, with its checkpoint's head or a new head; or a new BERT.

    Args:
        config: name of the model; or "new" and its sizes.
        corpus: training texts; a new BERT learns its vocabulary from them.
        seed: seed of new weights.

    Raises:
        InputError: no such backbone, it cannot be trained on masked words, or the sizes do not fit each
            other.
    """
    name = config.backbone or NewsConfig().backbone
    checkpoint = name != NEW
    bert = load_bert(name, dropout=config.dropout) if checkpoint else _new_bert(config, corpus, seed)
    model = MaskedLanguageModel(bert, config.precision)
    width = min(config.max_tokens, bert.backbone.max_sequence_length)

    def save(target: Path) -> None:
        save_bert(bert, target)
        file = target / "config.json"
        described = {**json.loads(file.read_text("utf-8")), "architectures": ["BertForMaskedLM"]}
        file.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", "utf-8")
        inner = [dataclasses.replace(each, name=f"bert.{each.name}") for each in BERT.weights(bert.backbone)]
        write_weights(target, [*inner, *head_weights(model.head)])

    return LanguageModel(
        model=model,
        width=width,
        tokenize=lambda texts: masked_texts(texts, bert.tokenizer, width, config.masked_share),
        save=save,
        name=name if checkpoint else None,
    )


def _new_bert(config: PretrainConfig, corpus: Sequence[str], seed: int) -> Bert:
    return new_bert(
        learn_wordpiece(corpus, config.vocabulary_size),
        layers=config.layers,
        heads=config.heads,
        hidden=config.hidden,
        max_tokens=config.max_tokens,
        dropout=config.dropout,
        seed=seed,
    )


class LanguageTrainer(Learner):
    """Cross-entropy of the predicted tokens, each with the same weight.

    Attributes:
        ngrams: the n-grams for batches with contexts, mixed into the targets with the share `smoothing`; else
            None.
    """

    ngrams: SmoothedNgrams | None = None

    def loss_of(self, batch: Batch, training: bool) -> tf.Tensor:
        """Mean loss of a batch in nats per token, float32 []; with several replicas this replica's share."""
        if self.ngrams is None:
            nats, tokens = summed_losses(self.model, batch, training)
        else:
            nats, tokens = smoothed_losses(self.model, batch, self.ngrams, training)
        return nats / tf.maximum(sum_over_replicas(tokens), 1.0)


def summed_losses(model: keras.Model, batch: Batch, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy of a batch.

    Args:
        model: a model of `genre_tf.models.packed_models`.
        batch: batch of `PackedBatches`.
        training: whether dropout is active.

    Returns:
        Its sum in nats, and the number of predicted tokens: float32 [] each.
    """
    logits = model(batch, training=training)  # [labels, vocabulary]
    labels, weight = (tf.reshape(batch[name], [-1]) for name in ("labels", "label_weight"))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_sum(losses * weight), tf.reduce_sum(weight)


def smoothed_losses(
    model: keras.Model, batch: Batch, ngrams: SmoothedNgrams, training: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """`summed_losses` against targets that contain n-gram expectations with the batch's share `smoothing`."""
    logits = model(batch, training=training)  # [labels, vocabulary]
    labels, weight, share = (
        tf.reshape(batch[name], [-1]) for name in ("labels", "label_weight", "smoothing")
    )
    contexts = tf.reshape(batch["contexts"], [-1, batch["contexts"].shape[-1]])
    of_text = tf.gather(logits, labels, batch_dims=1)
    expected = of_text + share * (ngrams.expected(logits, contexts) - of_text)
    losses = tf.reduce_logsumexp(logits, axis=1) - expected
    return tf.reduce_sum(losses * weight), tf.reduce_sum(weight)


class Measured:
    """Texts to measure the current model on; for a masked model the same words are always hidden.

    Args:
        language_model: the model.
        texts: at least one text.
    """

    def __init__(self, language_model: LanguageModel, texts: Sequence[str]) -> None:
        tokens, width = language_model.tokenize(texts), language_model.width
        self.batches: list[dict[str, Any]] = measured_batches(tokens, width, _MEASURED_ROWS)
        self.measure = language_model.measure

    def loss(self) -> TextLoss:
        """Loss over all texts together."""
        found = [
            self.measure({name: tf.constant(column) for name, column in batch.items()})
            for batch in self.batches
        ]
        nats, tokens = (
            float(np.sum([each[part].numpy() for each in found], dtype=np.float64)) for part in (0, 1)
        )
        return TextLoss(nats, round(tokens))

    def __call__(self) -> dict[str, float]:
        """The "perplexity" per predicted token, and the "loss" in nats per token whose exponential it is."""
        found = self.loss()
        return {"perplexity": found.per_token, "loss": found.nats / max(1, found.tokens)}


def measured_kinds(language_model: LanguageModel, texts: NewsTexts) -> dict[str, Measured]:
    """Titles and abstracts separately."""
    return {name: Measured(language_model, found) for name, found in texts.kinds.items()}
