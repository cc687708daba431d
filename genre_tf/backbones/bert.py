"""BERT from a Hugging Face folder, a Keras preset or newly initialized; and writing it to a folder."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras_hub

from genre_tf.backbones.checkpoints import Family, Pretrained
from genre_tf.backbones.hub import read_preset
from genre_tf.backbones.sources import resolve_backbone
from genre_tf.text.wordpiece import SPECIAL_TOKENS, WordPiece
from genre_tf.text.words import words_of

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


@dataclass(frozen=True)
class Bert(Pretrained):
    """A BERT and its tokenizer."""

    backbone: keras_hub.models.BertBackbone
    tokenizer: WordPiece


BERT = Family(
    name="BERT",
    model_type="bert",
    model=Bert,
    tokenizer=WordPiece,
    hub=keras_hub.models.BertBackbone,
    sizes={
        "vocabulary_size": "vocab_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "hidden_dim": "hidden_size",
        "intermediate_dim": "intermediate_size",
        "max_sequence_length": "max_position_embeddings",
    },
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    options=lambda config: {"num_segments": config.get("type_vocab_size", 2)},
    activation=("hidden_act", "gelu"),
    epsilon=("layer_norm_eps", 1e-12),
    only=lambda config: [
        ("position_embedding_type", config.get("position_embedding_type", "absolute"), "absolute")
    ],
    outer=[
        ("embeddings.word_embeddings", "token_embedding"),
        ("embeddings.position_embeddings", "position_embedding"),
        ("embeddings.token_type_embeddings", "segment_embedding"),
        ("embeddings.LayerNorm", "embeddings_layer_norm"),
        ("pooler.dense", "pooled_dense"),
    ],
    inner=[
        ("attention.self.query", "query"),
        ("attention.self.key", "key"),
        ("attention.self.value", "value"),
        ("attention.output.dense", "project"),
        ("attention.output.LayerNorm", "attention_norm"),
        ("intermediate.dense", "expand"),
        ("output.dense", "contract"),
        ("output.LayerNorm", "feed_forward_norm"),
    ],
    layer="encoder.layer.{}.",
    transposed=True,
    optional="pooler.",  # language-model checkpoints have none, and nothing here uses it
    tied="cls.predictions.decoder.weight",
    prefixes=("", "bert."),
    saved={"hidden_act": "gelu", "layer_norm_eps": 1e-12},
)


def load_bert(name: str, *, dropout: float | None = None) -> Bert:
    """Read a BERT, by a name in any form of `resolve_backbone`.

    `dropout` is the rate in training; None: the checkpoint's own.

    Raises:
        InputError: files are missing, damaged or not of a BERT, or do not match each other.
    """
    source = resolve_backbone(name)
    if source.kind == "tiny":
        return BERT.new(WordPiece(tiny_vocabulary()), layers=2, heads=2, hidden=32, dropout=dropout or 0.0)
    if source.folder is not None:
        return BERT.read(source.folder, dropout)
    backbone, tokenizer = read_preset(source.name, "Bert", dropout)
    # KerasHub computes this activation.
    config = BERT.config_of(backbone) | {"type_vocab_size": backbone.num_segments, "hidden_act": "gelu_new"}
    return Bert(
        backbone, WordPiece(list(tokenizer.get_vocabulary()), bool(tokenizer.lowercase)), None, config
    )


def save_bert(bert: Bert, folder: Path) -> None:
    """Write a folder that `load_bert` and `transformers` can read: configuration, vocabulary, safetensors."""
    tokens = {"type_vocab_size": bert.backbone.num_segments, "pad_token_id": bert.tokenizer.pad_id}
    BERT.save(bert, folder, tokens, {"architectures": ["BertModel"]})


def tiny_vocabulary(texts: Iterable[str] = (), words: int = 1000) -> list[str]:
    """A WordPiece vocabulary that can spell any English text; others if the given texts have the characters.

    Special tokens, characters, continuations, then the most frequent words; the same for the same texts.
    """
    spelled = [*SPECIAL_TOKENS, *_PUNCTUATION, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    counted = Counter(word for text in texts for word in words_of(text.lower()) if word not in _LETTERS)
    frequent = sorted(counted, key=lambda word: (-counted[word], word))
    return [*spelled, *frequent[:words]]
