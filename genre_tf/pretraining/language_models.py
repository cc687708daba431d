"""The models that pretraining trains, over packed rows: GPT-2 and BERT, their loss and its measurement."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from genre_tf.backbones.bert import BERT, Bert, load_bert, save_bert
from genre_tf.backbones.checkpoints import Weight, layer_weights, read_weights, write_weights
from genre_tf.backbones.hub import head_parts, hub_blocks
from genre_tf.backbones.language_models import END_OF_TEXT, GPT2, load_language_model, save_language_model
from genre_tf.backbones.language_models import LanguageModel as Checkpoint
from genre_tf.backbones.layers import Embeddings, LanguageLayers
from genre_tf.backbones.trainable import compute_in
from genre_tf.config import NewsConfig, PretrainConfig
from genre_tf.layers.attention import Attention, Padded, side_by_side_bias
from genre_tf.layers.block import transformed
from genre_tf.layers.elementwise import ACTIVATIONS
from genre_tf.losses.replicas import sum_over_replicas
from genre_tf.metrics.text import TextLoss
from genre_tf.pretraining.corpus_statistics import SmoothedNgrams
from genre_tf.pretraining.packed_batches import TokenTexts, causal_texts, masked_texts, measured_batches
from genre_tf.text.byte_pair import train_byte_pair
from genre_tf.text.wordpiece import learn_wordpiece
from genre_tf.training.learner import Learner

Batch = dict[str, tf.Tensor]
"""A batch of `PackedBatches`."""


class CausalLanguageModel(keras.Model):
    """GPT-2 that predicts the next token at every position; precision is that of the matrix products."""

    def __init__(self, gpt2: Checkpoint, precision: str = "float32") -> None:
        super().__init__(name="causal_language_model")
        self.backbone = gpt2.backbone
        self.language_layers = LanguageLayers(gpt2.backbone, attention_drops=False)
        compute_in(precision, self.language_layers)
        self.built = True

    def call(self, batch: Batch, training: bool | None = None) -> tf.Tensor:
        """Logits of the token after each, float32 [rows * time, vocabulary]."""
        states = self.states(batch, training)
        return self.language_layers.logits(tf.reshape(states, [-1, self.backbone.hidden_dim]))

    def states(self, batch: Batch, training: bool | None = None) -> tf.Tensor:
        """Last hidden states, each text computed as if it were alone: float32 [rows, time, hidden]."""
        return self.language_layers.packed_states(
            batch["token_ids"], batch["text"], batch["position"], training
        )


class MaskedLanguageModel(keras.Model):
    """BERT that predicts masked tokens, with a head tied to its token embeddings.

    Precision is that of the layers' matrix products.

    Source: Devlin et al. 2019; the head is theirs: dense layer, activation, normalization, embeddings, bias.
    """

    def __init__(self, bert: Bert, precision: str = "float32") -> None:
        super().__init__(name="masked_language_model")
        self.backbone = bert.backbone
        self.embeddings = Embeddings(bert.backbone)
        self.blocks = hub_blocks(bert.backbone, attention_drops=False)
        for block in self.blocks:
            compute_in(precision, block)
        bert.backbone.get_layer("pooled_dense").trainable = False  # no prediction uses it
        self.head = keras_hub.layers.MaskedLMHead(
            token_embedding=bert.backbone.get_layer("token_embedding"),
            intermediate_activation=ACTIVATIONS[bert.config.get("hidden_act", "gelu")],
            layer_norm_epsilon=bert.config.get("layer_norm_eps", 1e-12),
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02, seed=0),
            dtype="float32",
            name="head",
        )
        self.head.build((None, None, bert.backbone.hidden_dim), (None, None))
        if bert.folder is not None:  # initialized if the checkpoint has none
            read_weights(bert.folder, head_weights(self.head), ("",))
        self.built = True

    def call(self, batch: Batch, training: bool | None = None) -> tf.Tensor:
        """Logits of the masked tokens (at the batch's `places`), float32 [rows * places, vocabulary]."""
        logits = self.head(self.states(batch, training), batch["places"])
        return tf.reshape(logits, [-1, self.backbone.vocabulary_size])

    def states(self, batch: Batch, training: bool | None = None) -> tf.Tensor:
        """Last hidden states, each text computed as if it were alone: float32 [rows, time, hidden]."""
        ids, positions = (tf.reshape(batch[name], [-1]) for name in ("token_ids", "position"))
        flat = self.embeddings(ids, positions, training=training)
        layout = Padded(batch["text"])
        attention = Attention(layout, side_by_side_bias(batch["text"], causal=False))
        for block in self.blocks:
            flat = transformed(block, flat, attention, training)
        return layout.padded(flat, training)


def head_weights(head: keras_hub.layers.MaskedLMHead) -> list[Weight]:
    """The weights of a masked-language-model head under their Hugging Face names."""
    dense, norm, bias = head_parts(head)
    transform = "cls.predictions.transform."
    weights = [
        Weight("cls.predictions.bias", (bias,), tuple(bias.shape), of_tokens=True),
        *layer_weights(transform + "dense", [dense], transposed=True),
        *layer_weights(transform + "LayerNorm", [norm], transposed=True),
    ]
    return [dataclasses.replace(weight, optional=True) for weight in weights]


NEW = "new"  # instead of a checkpoint's name
_MEASURED_ROWS = 8  # rows in a batch: its logits over GPT-2's own vocabulary take about 400 MB


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A language model to pretrain."""

    model: keras.Model  # returns logits for the labels of a batch
    width: int  # tokens in a row
    tokenize: Callable[[Sequence[str]], TokenTexts]  # texts to what batches are packed from
    save: Callable[[Path], None]  # writes a Hugging Face folder
    name: str | None  # of the initial checkpoint; None for a new model

    @cached_property
    def measure(self) -> Callable[[Batch], tuple[tf.Tensor, tf.Tensor]]:
        """`summed_losses` of a batch without dropout, compiled once for all measurements."""
        return tf.function(lambda batch: summed_losses(self.model, batch, False), autograph=False)  # type: ignore[no-any-return]


def causal_language_model(
    config: PretrainConfig, corpus: Sequence[str], folder: Path, seed: int
) -> LanguageModel:
    """A named GPT-2, or a new one with a vocabulary of the corpus, which is written into a folder."""
    checkpoint = config.backbone not in ("", NEW)
    if checkpoint:
        gpt2 = load_language_model(config.backbone, dropout=config.dropout, special_tokens=(END_OF_TEXT,))
        gpt2 = dataclasses.replace(gpt2, tokenizer=gpt2.tokenizer.with_known_words(corpus))
    else:
        tokenizer = train_byte_pair(corpus, config.vocabulary_size, (END_OF_TEXT,), folder)
        gpt2 = GPT2.new(tokenizer, **_sizes(config), seed=seed)
    width = min(config.max_tokens, gpt2.backbone.max_sequence_length)
    return LanguageModel(
        model=CausalLanguageModel(gpt2, config.precision),
        width=width,
        tokenize=lambda texts: causal_texts(texts, gpt2.tokenizer, width),
        save=lambda target: save_language_model(gpt2, target),
        name=config.backbone if checkpoint else None,
    )


def masked_language_model(config: PretrainConfig, corpus: Sequence[str], seed: int) -> LanguageModel:
    """A named BERT, with its checkpoint's head or a new head; or a new BERT with the corpus's vocabulary."""
    name = config.backbone or NewsConfig().backbone
    checkpoint = name != NEW
    if checkpoint:
        bert = load_bert(name, dropout=config.dropout)
    else:
        bert = BERT.new(learn_wordpiece(corpus, config.vocabulary_size), **_sizes(config), seed=seed)
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


def _sizes(config: PretrainConfig) -> dict[str, Any]:
    """What a new model of either kind is built with."""
    names = ("layers", "heads", "hidden", "max_tokens", "dropout")
    return {name: getattr(config, name) for name in names}


class LanguageTrainer(Learner):
    """Cross-entropy of the predicted tokens, each with the same weight.

    `ngrams`, for batches with contexts, are mixed into the targets with the share `smoothing`.
    """

    ngrams: SmoothedNgrams | None = None

    def loss_of(self, batch: Batch, training: bool) -> tf.Tensor:
        """Mean loss of a batch in nats per token, float32 []; with several replicas this replica's share."""
        nats, tokens = summed_losses(self.model, batch, training, self.ngrams)
        return nats / tf.maximum(sum_over_replicas(tokens), 1.0)


def summed_losses(
    model: keras.Model, batch: Batch, training: bool, ngrams: SmoothedNgrams | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sum of the cross-entropies of a batch in nats, and the number of predicted tokens: float32 [] each.

    `ngrams` are mixed into the targets with the batch's share `smoothing`; None: only the text's own tokens.
    """
    logits = model(batch, training=training)  # [labels, vocabulary]
    labels, weight = (tf.reshape(batch[name], [-1]) for name in ("labels", "label_weight"))
    if ngrams is None:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    else:
        share = tf.reshape(batch["smoothing"], [-1])
        contexts = tf.reshape(batch["contexts"], [-1, batch["contexts"].shape[-1]])
        of_text = tf.gather(logits, labels, batch_dims=1)
        expected = of_text + share * (ngrams.expected(logits, contexts) - of_text)
        losses = tf.reduce_logsumexp(logits, axis=1) - expected
    return tf.reduce_sum(losses * weight), tf.reduce_sum(weight)


class Measured:
    """Texts to measure the current model on; for a masked model the same words are always hidden."""

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
