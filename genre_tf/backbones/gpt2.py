"""GPT-2 from a Hugging Face folder, a Keras preset or newly initialized; and writing it to a folder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np

from genre_tf.backbones.control_embeddings import END_OF_TEXT, control_embeddings
from genre_tf.backbones.presets import read_gpt2_preset
from genre_tf.backbones.sources import resolve_backbone
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
from genre_tf.text.byte_pair import BytePair
from genre_tf.text.byte_pair_files import printable_bytes
from genre_tf.text.json_files import read_json_object

_SIZES = ("vocab_size", "n_layer", "n_head", "n_embd", "n_positions")
_PREFIXES = ("", "transformer.")


@dataclass(frozen=True)
class Gpt2:
    """A GPT-2 and its tokenizer. Its logits are its last hidden states times its token embeddings.

    Attributes:
        backbone: the KerasHub layers.
        tokenizer: converts strings to token ids and back.
        folder: the Hugging Face folder it was read from; None for a preset or a new one.
        config: the content of its Hugging Face `config.json`.
    """

    backbone: keras_hub.models.GPT2Backbone
    tokenizer: BytePair
    folder: Path | None
    config: dict[str, Any]


def load_gpt2(name: str, *, dropout: float | None = None, special_tokens: Sequence[str] = ()) -> Gpt2:
    """Read a GPT-2.

    Args:
        name: a backbone name in any form of `resolve_backbone`.
        dropout: dropout rate in training; None: the checkpoint's own.
        special_tokens: control tokens that it must have; missing ones are added, see `control_embeddings`.

    Raises:
        InputError: files are missing, damaged or not of a GPT-2, or do not match each other.
    """
    source = resolve_backbone(name)
    if source.kind == "tiny":
        tokenizer = tiny_byte_pair(special_tokens)
        return new_gpt2(tokenizer, layers=2, heads=2, hidden=32, max_tokens=256, dropout=dropout or 0.0)
    if source.folder is None:
        return _extended(_load_preset(source.name, dropout), special_tokens)
    config, tokenizer = _described(source.folder)
    backbone = build_backbone(config, dropout)
    read_weights(source.folder, gpt2_weights(backbone), _PREFIXES)
    return _extended(Gpt2(backbone, tokenizer, source.folder, config), special_tokens)


def check_gpt2(folder: Path) -> Gpt2:
    """Check a Hugging Face folder without reading the values of its weights; raises as `load_gpt2` does.

    Returns:
        A GPT-2 of these sizes with one layer and random weights.
    """
    config, tokenizer = _described(folder)
    one = build_backbone({**config, "n_layer": 1}, None)
    check_weights(folder, of_layers(gpt2_weights(one), "h.{}.", config["n_layer"]), _PREFIXES)
    return Gpt2(one, tokenizer, folder, config)


def new_gpt2(
    tokenizer: BytePair,
    *,
    layers: int,
    heads: int,
    hidden: int,
    max_tokens: int,
    dropout: float = 0.1,
    seed: int = 0,
) -> Gpt2:
    """A GPT-2 with random weights; the same seed gives the same weights.

    Args:
        tokenizer: gives the vocabulary.
        layers: number of transformer layers.
        heads: attention heads per layer; `hidden` must be a multiple of it.
        hidden: width of the hidden states; the feed-forward layers are four times as wide.
        max_tokens: length of the longest text.
        dropout: dropout rate in training.
        seed: seed of the weights.

    Raises:
        InputError: the width is not a multiple of the heads.

    Source: Radford et al. 2019; weights are drawn as described there, those before a residual sum divided
    by the square root of the number of such sums.
    """
    config = {
        "vocab_size": tokenizer.vocabulary_size,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": hidden,
        "n_positions": max_tokens,
        "resid_pdrop": dropout,
        "embd_pdrop": dropout,
        "attn_pdrop": dropout,
    }
    _check_sizes(config, "A new GPT-2")
    backbone = build_backbone(config, dropout)
    _draw_weights(backbone, seed)
    return Gpt2(backbone, tokenizer, None, config)


def save_gpt2(gpt2: Gpt2, folder: Path) -> None:
    """Write a folder that `load_gpt2` and `transformers` can read: configuration, vocabulary, safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    has_end = END_OF_TEXT in gpt2.tokenizer.special_tokens
    end = gpt2.tokenizer.token_id(END_OF_TEXT) if has_end else None
    config = {
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        **gpt2.config,
        "bos_token_id": end,
        "eos_token_id": end,
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    gpt2.tokenizer.save(folder)
    write_weights(folder, gpt2_weights(gpt2.backbone), prefix="transformer.")


def tiny_byte_pair(special_tokens: Sequence[str] = ()) -> BytePair:
    """A vocabulary of the 256 bytes, the end of a text and the given special tokens, without merges."""
    tokens = dict.fromkeys([*printable_bytes(), END_OF_TEXT, *special_tokens])
    return BytePair({token: number for number, token in enumerate(tokens)}, [])


def gpt2_weights(backbone: keras_hub.models.GPT2Backbone) -> list[Weight]:
    """Every weight of a GPT-2 under its Hugging Face name."""
    weights = [
        weight_of("wte.weight", backbone.token_embedding.embeddings, of_tokens=True, tied="lm_head.weight"),
        weight_of("wpe.weight", backbone.position_embedding.position_embeddings),
    ]
    for number, layer in enumerate(backbone.transformer_layers):
        weights += _layer_weights(layer, f"h.{number}.", backbone.hidden_dim, backbone.intermediate_dim)
    weights += _norm_weights("ln_f", backbone.layer_norm)
    return weights


def _layer_weights(layer: Any, prefix: str, hidden: int, intermediate: int) -> Iterator[Weight]:
    attention = layer._self_attention_layer
    joined = (attention.query_dense, attention.key_dense, attention.value_dense)
    yield from _norm_weights(prefix + "ln_1", layer._self_attention_layer_norm)
    yield from _dense_weights(prefix + "attn.c_attn", joined, (hidden, hidden))
    yield from _dense_weights(prefix + "attn.c_proj", (attention.output_dense,), (hidden, hidden))
    yield from _norm_weights(prefix + "ln_2", layer._feedforward_layer_norm)
    widening, narrowing = layer._feedforward_intermediate_dense, layer._feedforward_output_dense
    yield from _dense_weights(prefix + "mlp.c_fc", (widening,), (hidden, intermediate))
    yield from _dense_weights(prefix + "mlp.c_proj", (narrowing,), (intermediate, hidden))


def _norm_weights(name: str, norm: Any) -> list[Weight]:
    return [weight_of(name + ".weight", norm.gamma), weight_of(name + ".bias", norm.beta)]


def _dense_weights(name: str, layers: tuple[Any, ...], shape: tuple[int, int]) -> list[Weight]:
    return [
        Weight(name + ".weight", tuple(layer.kernel for layer in layers), shape),
        Weight(name + ".bias", tuple(layer.bias for layer in layers), shape[1:]),
    ]


def build_backbone(config: dict[str, Any], dropout: float | None) -> keras_hub.models.GPT2Backbone:
    """The layers that a Hugging Face `config.json` describes, with weights still to be loaded.

    Args:
        config: the content of the file.
        dropout: dropout rate in training; None: the configuration's own.
    """
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=config["vocab_size"],
        num_layers=config["n_layer"],
        num_heads=config["n_head"],
        hidden_dim=config["n_embd"],
        intermediate_dim=config.get("n_inner") or 4 * config["n_embd"],
        dropout=config.get("resid_pdrop", 0.1) if dropout is None else dropout,
        max_sequence_length=config["n_positions"],
    )
    activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
    epsilon = config.get("layer_norm_epsilon", 1e-5)
    backbone.layer_norm.epsilon = epsilon
    for layer in backbone.transformer_layers:
        layer._feedforward_intermediate_dense.activation = activation
        layer._self_attention_layer_norm.epsilon = epsilon
        layer._feedforward_layer_norm.epsilon = epsilon
    return backbone


def _draw_weights(backbone: keras_hub.models.GPT2Backbone, seed: int) -> None:
    generator = np.random.default_rng(seed)
    before_a_sum = 0.02 / np.sqrt(2 * backbone.num_layers)
    for weight in gpt2_weights(backbone):
        if len(weight.stored_shape) > 1:
            deviation = before_a_sum if weight.name.endswith("c_proj.weight") else 0.02
            weight.read(generator.normal(0.0, deviation, weight.stored_shape).astype(np.float32))


def _extended(gpt2: Gpt2, special_tokens: Sequence[str]) -> Gpt2:
    """The same GPT-2 with one embedding for each token, these included; itself if nothing changes."""
    tokenizer = gpt2.tokenizer.with_special_tokens(special_tokens)
    added = [token for token in tokenizer.special_tokens if token not in gpt2.tokenizer.special_tokens]
    if not added and gpt2.backbone.vocabulary_size == tokenizer.vocabulary_size:
        return gpt2
    config = {**gpt2.config, "vocab_size": tokenizer.vocabulary_size}
    backbone = build_backbone(config, gpt2.backbone.dropout)
    for old, new in zip(gpt2_weights(gpt2.backbone), gpt2_weights(backbone), strict=True):
        tensor = old.write()
        if old.name == "wte.weight":
            tensor = tensor[: gpt2.tokenizer.vocabulary_size]  # a preset may have more rows
            tensor = np.concatenate([tensor, control_embeddings(gpt2.tokenizer, tensor, added)])
        new.read(tensor)
    return Gpt2(backbone, tokenizer, gpt2.folder, config)


def _load_preset(name: str, dropout: float | None) -> Gpt2:
    backbone, vocabulary, merges = read_gpt2_preset(name, dropout)
    config = {
        "vocab_size": backbone.vocabulary_size,
        "n_layer": backbone.num_layers,
        "n_head": backbone.num_heads,
        "n_embd": backbone.hidden_dim,
        "n_inner": backbone.intermediate_dim,
        "n_positions": backbone.max_sequence_length,
        "resid_pdrop": backbone.dropout,
    }
    pairs = [(left, right) for left, right in (rule.split(" ") for rule in merges)]
    return Gpt2(backbone, BytePair(vocabulary, pairs), None, without_padding(config, len(vocabulary), name))


def _described(folder: Path) -> tuple[dict[str, Any], BytePair]:
    config, tokenizer = _read_config(folder), BytePair.from_folder(folder)
    return without_padding(config, tokenizer.vocabulary_size, folder), tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json_object(path)
    if not config:
        raise InputError(
            f"{path} is missing or empty. Name a folder with a GPT-2's config, weights and vocabulary."
        )
    if config.get("model_type", "gpt2") != "gpt2":
        raise InputError(f"{path} describes a {config['model_type']!r} model. Name the folder of a GPT-2.")
    _check_sizes(config, str(path))
    if config.get("activation_function", "gelu_new") not in ACTIVATIONS:
        raise InputError(
            f"{path}: activation_function {config['activation_function']!r} is unknown; known are "
            f"{', '.join(ACTIVATIONS)}."
        )
    if config.get("tie_word_embeddings") is False or config.get("scale_attn_by_inverse_layer_idx"):
        raise InputError(f"{path}: only GPT-2s with tied embeddings and plain attention scaling are read.")
    return config


def _check_sizes(config: dict[str, Any], where: str) -> None:
    for key in _SIZES:
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise InputError(f"{where}: {key} must be a positive whole number; got {config.get(key)!r}.")
    if config["n_embd"] % config["n_head"]:
        raise InputError(
            f"{where}: a width of {config['n_embd']} cannot be divided among {config['n_head']} heads."
        )
