"""BERT from a Hugging Face folder, a Keras preset or newly initialized; and writing it to a folder."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import keras_hub

from genre_tf.backbones.checkpoints import Config, Family, Pretrained
from genre_tf.backbones.hub import read_preset
from genre_tf.backbones.sources import resolve_backbone
from genre_tf.text.wordpiece import SPECIAL_TOKENS, WordPiece
from genre_tf.text.words import words_of

BERT = Family(
    name="BERT",
    model_type="bert",
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

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


@dataclass(frozen=True)
class Bert(Pretrained):
    """A BERT and its tokenizer; attributes as in `Pretrained`."""

    backbone: keras_hub.models.BertBackbone
    tokenizer: WordPiece

    def get_config(self) -> Config:
        """Sizes and tokenizer in plain data, from which `build_bert` makes a BERT with new weights."""
        tokenizer = self.tokenizer
        return {
            "config": self.config,
            "vocabulary": list(tokenizer.vocabulary),
            "lowercase": tokenizer.lowercase,
            "strip_accents": tokenizer.strip_accents,
        }


def build_bert(described: Config, dropout: float | None = None) -> Bert:
    """The BERT that `Bert.get_config` describes, with weights still to be loaded.

    Args:
        described: what `get_config` returned.
        dropout: dropout rate in training; None: the checkpoint's own.
    """
    words = {name: described[name] for name in ("vocabulary", "lowercase", "strip_accents")}
    config = described["config"]
    return Bert(BERT.build(config, dropout), WordPiece(**words), None, config)


def load_bert(name: str, *, dropout: float | None = None) -> Bert:
    """Read a BERT.

    Args:
        name: a backbone name in any form of `resolve_backbone`.
        dropout: dropout rate in training; None: the checkpoint's own.

    Raises:
        InputError: files are missing, damaged or not of a BERT, or do not match each other.
    """
    source = resolve_backbone(name)
    if source.kind == "tiny":
        return new_bert(WordPiece(tiny_vocabulary()), layers=2, heads=2, hidden=32, dropout=dropout or 0.0)
    if source.folder is not None:
        return _bert(BERT.read(source.folder, WordPiece.from_folder, dropout))
    backbone, tokenizer = read_preset(source.name, "Bert", dropout)
    # KerasHub computes this activation.
    config = BERT.config_of(backbone) | {"type_vocab_size": backbone.num_segments, "hidden_act": "gelu_new"}
    vocabulary = list(tokenizer.get_vocabulary())
    return Bert(backbone, WordPiece(vocabulary, bool(tokenizer.lowercase)), None, config)


def check_bert(folder: Path) -> None:
    """Check a Hugging Face folder without reading the values of its weights; raises as `load_bert` does."""
    BERT.check(folder, WordPiece.from_folder)


def new_bert(
    tokenizer: WordPiece,
    *,
    layers: int,
    heads: int,
    hidden: int,
    max_tokens: int = 512,
    dropout: float = 0.1,
    seed: int = 0,
) -> Bert:
    """A BERT with random weights; the same seed gives the same weights.

    Args:
        tokenizer: gives the vocabulary.
        layers: number of transformer layers.
        heads: attention heads per layer; `hidden` must be a multiple of it.
        hidden: width of the hidden states; the feed-forward layers are four times as wide.
        max_tokens: length of the longest input.
        dropout: dropout rate in training.
        seed: seed of the weights.

    Raises:
        InputError: the width is not a multiple of the heads.
    """
    config = {
        "vocab_size": tokenizer.vocabulary_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": max_tokens,
        **dict.fromkeys(BERT.dropout, dropout),
    }
    return _bert(BERT.new(config, tokenizer, seed))


def save_bert(bert: Bert, folder: Path) -> None:
    """Write a folder that `load_bert` and `transformers` can read: configuration, vocabulary, safetensors."""
    tokens = {"type_vocab_size": bert.backbone.num_segments, "pad_token_id": bert.tokenizer.pad_id}
    BERT.save(bert, folder, tokens, {"architectures": ["BertModel"]})


def tiny_vocabulary(texts: Iterable[str] = (), words: int = 1000) -> list[str]:
    """A WordPiece vocabulary that can spell any English text; others if the given texts have the characters.

    Args:
        texts: their most frequent words become tokens.
        words: maximum number of such words.

    Returns:
        Special tokens, characters, continuations, then words; the same for the same texts.
    """
    spelled = [*SPECIAL_TOKENS, *_PUNCTUATION, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    counted = Counter(word for text in texts for word in words_of(text.lower()) if word not in _LETTERS)
    frequent = sorted(counted, key=lambda word: (-counted[word], word))
    return [*spelled, *frequent[:words]]


def _bert(found: Pretrained) -> Bert:
    return Bert(found.backbone, found.tokenizer, found.folder, found.config)
