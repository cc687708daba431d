"""BERT from a Hugging Face folder, a Keras preset or newly initialized; and writing it to a folder."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np

from genre_tf.backbones.presets import read_bert_preset
from genre_tf.backbones.sources import resolve_backbone
from genre_tf.backbones.tiny import tiny_vocabulary
from genre_tf.backbones.weights import (
    Weight,
    check_weights,
    of_layers,
    read_weights,
    weight_of,
    without_padding,
    write_weights,
)
from genre_tf.errors import InputError
from genre_tf.layers.elementwise import ACTIVATIONS
from genre_tf.text.json_files import read_json_object
from genre_tf.text.wordpiece import WordPiece

_SIZES = (
    "vocab_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
)
_PREFIXES = ("", "bert.")


@dataclass(frozen=True)
class Bert:
    """A BERT and its tokenizer.

    Attributes:
        backbone: the KerasHub layers.
        tokenizer: converts strings to token ids.
        folder: the Hugging Face folder it was read from; None for a preset or a new one.
        config: the content of its Hugging Face `config.json`.
    """

    backbone: keras_hub.models.BertBackbone
    tokenizer: WordPiece
    folder: Path | None
    config: dict[str, Any]

    def get_config(self) -> dict[str, Any]:
        """Sizes and tokenizer in plain data, from which `build_bert` makes a BERT with new weights."""
        tokenizer = self.tokenizer
        return {
            "config": self.config,
            "vocabulary": list(tokenizer.vocabulary),
            "lowercase": tokenizer.lowercase,
            "strip_accents": tokenizer.strip_accents,
        }


def build_bert(described: dict[str, Any], dropout: float | None = None) -> Bert:
    """The BERT that `Bert.get_config` describes, with weights still to be loaded.

    Args:
        described: what `get_config` returned.
        dropout: dropout rate in training; None: the checkpoint's own.
    """
    words = {name: described[name] for name in ("vocabulary", "lowercase", "strip_accents")}
    return Bert(_build(described["config"], dropout), WordPiece(**words), None, described["config"])


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
    if source.folder is None:
        return _load_preset(source.name, dropout)
    config, tokenizer = _described(source.folder)
    backbone = _build(config, dropout)
    read_weights(source.folder, bert_weights(backbone), _PREFIXES)
    return Bert(backbone, tokenizer, source.folder, config)


def check_bert(folder: Path) -> None:
    """Check a Hugging Face folder without reading the values of its weights; raises as `load_bert` does."""
    config, _ = _described(folder)
    one = _build({**config, "num_hidden_layers": 1}, None)
    layers = of_layers(bert_weights(one), "encoder.layer.{}.", config["num_hidden_layers"])
    check_weights(folder, layers, _PREFIXES)


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
    """
    config = {
        "vocab_size": tokenizer.vocabulary_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": max_tokens,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    _check_sizes(config, "A new BERT")
    backbone = _build(config, dropout)
    _draw_weights(backbone, seed)
    return Bert(backbone, tokenizer, None, config)


def save_bert(bert: Bert, folder: Path) -> None:
    """Write a folder that `load_bert` and `transformers` can read: configuration, vocabulary, safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": bert.backbone.num_segments,
        "pad_token_id": bert.tokenizer.pad_id,
        **bert.config,
        "architectures": ["BertModel"],
        "model_type": "bert",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    bert.tokenizer.save(folder)
    write_weights(folder, bert_weights(bert.backbone))


def bert_weights(backbone: keras_hub.models.BertBackbone) -> list[Weight]:
    """Every weight of a BERT under its Hugging Face name."""
    norm = backbone.get_layer("embeddings_layer_norm")
    pooler = backbone.get_layer("pooled_dense")
    hidden = backbone.hidden_dim
    weights = [
        weight_of(
            "embeddings.word_embeddings.weight",
            backbone.get_layer("token_embedding").embeddings,
            of_tokens=True,
            tied="cls.predictions.decoder.weight",
        ),
        weight_of(
            "embeddings.position_embeddings.weight",
            backbone.get_layer("position_embedding").position_embeddings,
        ),
        weight_of(
            "embeddings.token_type_embeddings.weight", backbone.get_layer("segment_embedding").embeddings
        ),
        weight_of("embeddings.LayerNorm.weight", norm.gamma),
        weight_of("embeddings.LayerNorm.bias", norm.beta),
    ]
    for number, layer in enumerate(backbone.transformer_layers):
        weights += _layer_weights(layer, f"encoder.layer.{number}.", hidden, backbone.intermediate_dim)
    # Language-model checkpoints have no pooler, and nothing here uses it.
    weights += _dense_weights("pooler.dense", pooler, (hidden, hidden), optional=True)
    return weights


def _layer_weights(layer: Any, prefix: str, hidden: int, intermediate: int) -> Iterator[Weight]:
    attention = layer._self_attention_layer
    square = (hidden, hidden)
    yield from _dense_weights(prefix + "attention.self.query", attention.query_dense, square)
    yield from _dense_weights(prefix + "attention.self.key", attention.key_dense, square)
    yield from _dense_weights(prefix + "attention.self.value", attention.value_dense, square)
    yield from _dense_weights(prefix + "attention.output.dense", attention.output_dense, square)
    norm = layer._self_attention_layer_norm
    yield weight_of(prefix + "attention.output.LayerNorm.weight", norm.gamma)
    yield weight_of(prefix + "attention.output.LayerNorm.bias", norm.beta)
    widening, narrowing = layer._feedforward_intermediate_dense, layer._feedforward_output_dense
    yield from _dense_weights(prefix + "intermediate.dense", widening, (hidden, intermediate))
    yield from _dense_weights(prefix + "output.dense", narrowing, (intermediate, hidden))
    norm = layer._feedforward_layer_norm
    yield weight_of(prefix + "output.LayerNorm.weight", norm.gamma)
    yield weight_of(prefix + "output.LayerNorm.bias", norm.beta)


def _dense_weights(name: str, dense: Any, shape: tuple[int, int], optional: bool = False) -> list[Weight]:
    return [
        Weight(name + ".weight", (dense.kernel,), shape, transposed=True, optional=optional),
        Weight(name + ".bias", (dense.bias,), shape[1:], optional=optional),
    ]


def _load_preset(name: str, dropout: float | None) -> Bert:
    backbone, vocabulary, lowercase = read_bert_preset(name, dropout)
    config = {
        "vocab_size": backbone.vocabulary_size,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "hidden_size": backbone.hidden_dim,
        "intermediate_size": backbone.intermediate_dim,
        "max_position_embeddings": backbone.max_sequence_length,
        "type_vocab_size": backbone.num_segments,
        "hidden_dropout_prob": backbone.dropout,
        "attention_probs_dropout_prob": backbone.dropout,
        "hidden_act": "gelu_new",  # what KerasHub computes
    }
    return Bert(backbone, WordPiece(vocabulary, lowercase), None, config)


def _build(config: dict[str, Any], dropout: float | None) -> keras_hub.models.BertBackbone:
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=config["vocab_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["hidden_size"],
        intermediate_dim=config["intermediate_size"],
        dropout=config.get("hidden_dropout_prob", 0.1) if dropout is None else dropout,
        max_sequence_length=config["max_position_embeddings"],
        num_segments=config.get("type_vocab_size", 2),
    )
    activation = ACTIVATIONS[config.get("hidden_act", "gelu")]
    epsilon = config.get("layer_norm_eps", 1e-12)
    backbone.get_layer("embeddings_layer_norm").epsilon = epsilon
    for layer in backbone.transformer_layers:
        layer._feedforward_intermediate_dense.activation = activation
        layer._self_attention_layer_norm.epsilon = epsilon
        layer._feedforward_layer_norm.epsilon = epsilon
    return backbone


def _draw_weights(backbone: keras_hub.models.BertBackbone, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for weight in bert_weights(backbone):
        if len(weight.stored_shape) > 1:
            weight.read(generator.normal(0.0, 0.02, weight.stored_shape).astype(np.float32))


def _described(folder: Path) -> tuple[dict[str, Any], WordPiece]:
    config, tokenizer = _read_config(folder), WordPiece.from_folder(folder)
    return without_padding(config, tokenizer.vocabulary_size, folder), tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json_object(path)
    if not config:
        raise InputError(
            f"{path} is missing or empty. Name a folder with a BERT's config, weights and vocabulary."
        )
    if config.get("model_type", "bert") != "bert":
        raise InputError(f"{path} describes a {config['model_type']!r} model. Name the folder of a BERT.")
    _check_sizes(config, str(path))
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise InputError(
            f"{path}: hidden_act {config['hidden_act']!r} is unknown; known are {', '.join(ACTIVATIONS)}."
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(f"{path}: only absolute position embeddings are supported, not relative ones.")
    return config


def _check_sizes(config: dict[str, Any], where: str) -> None:
    for key in _SIZES:
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise InputError(f"{where}: {key} must be a positive whole number; got {config.get(key)!r}.")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise InputError(
            f"{where}: a hidden_size of {config['hidden_size']} cannot be divided among "
            f"{config['num_attention_heads']} heads."
        )
