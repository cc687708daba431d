"""Models of Llama architecture, such as SmolLM2: from a Hugging Face folder or GGUF file, and to a folder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np

from genre_tf.backbones.control_embeddings import END_OF_TEXT, control_embeddings
from genre_tf.backbones.gpt2 import tiny_byte_pair
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
from genre_tf.text.byte_pair import BytePair
from genre_tf.text.json_files import read_json_object

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
_PREFIXES = ("model.", "")
# Other values would change the arithmetic.
_ONLY = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
}


@dataclass(frozen=True)
class Llama:
    """A model of Llama architecture and its tokenizer; its logits are last states times token embeddings.

    Attributes:
        backbone: the KerasHub layers.
        tokenizer: converts strings to token ids and back.
        folder: the Hugging Face folder it was read from; None for a new one.
        config: the content of its Hugging Face `config.json`.
    """

    backbone: keras_hub.models.Llama3Backbone
    tokenizer: BytePair
    folder: Path | None
    config: dict[str, Any]


def load_llama(name: str, special_tokens: Sequence[str] = ()) -> Llama:
    """Read a model of Llama architecture.

    Args:
        name: a backbone name in any form of `resolve_backbone` except a Keras preset.
        special_tokens: control tokens that it must have; missing ones are added, see `control_embeddings`.

    Raises:
        InputError: files are missing, damaged or of another model, or do not match each other.
    """
    source = resolve_backbone(name)
    if source.kind == "tiny":
        sizes = {"layers": 2, "heads": 4, "key_heads": 2, "hidden": 32, "intermediate": 64, "max_tokens": 256}
        return new_llama(tiny_byte_pair(special_tokens), **sizes)
    if source.folder is None:
        raise InputError(f"{name} is a Keras preset. Name a Hugging Face folder or a GGUF file of a Llama.")
    config, tokenizer = _described(source.folder)
    backbone = build_llama(config)
    read_weights(source.folder, llama_weights(backbone), _PREFIXES)
    return _extended(Llama(backbone, tokenizer, source.folder, config), special_tokens)


def check_llama(folder: Path) -> Llama:
    """Check a Hugging Face folder without reading the values of its weights; raises as `load_llama` does.

    Returns:
        A Llama of these sizes with one layer and random weights.
    """
    config, tokenizer = _described(folder)
    one = build_llama({**config, "num_hidden_layers": 1})
    check_weights(folder, of_layers(llama_weights(one), "layers.{}.", config["num_hidden_layers"]), _PREFIXES)
    return Llama(one, tokenizer, folder, config)


def new_llama(
    tokenizer: BytePair,
    *,
    layers: int,
    heads: int,
    key_heads: int,
    hidden: int,
    intermediate: int,
    max_tokens: int,
    seed: int = 0,
) -> Llama:
    """A Llama with random weights; the same seed gives the same weights.

    Args:
        tokenizer: gives the vocabulary.
        layers: number of transformer layers.
        heads: query heads per layer; `hidden` must be a multiple of it.
        key_heads: key and value heads per layer; `heads` must be a multiple of it.
        hidden: width of the hidden states.
        intermediate: width of the feed-forward layers.
        max_tokens: length of the longest text.
        seed: seed of the weights.

    Raises:
        InputError: the sizes are not multiples of each other.
    """
    config = {
        "model_type": "llama",
        "vocab_size": tokenizer.vocabulary_size,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": max_tokens,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    _check_sizes(config, "A new Llama")
    backbone = build_llama(config)
    generator = np.random.default_rng(seed)
    for weight in llama_weights(backbone):
        if len(weight.stored_shape) > 1:
            weight.read(generator.normal(0.0, 0.02, weight.stored_shape).astype(np.float32))
    return Llama(backbone, tokenizer, None, config)


def save_llama(llama: Llama, folder: Path) -> None:
    """Write a folder that `load_llama` and `transformers` read: configuration, vocabulary, safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    has_end = END_OF_TEXT in llama.tokenizer.special_tokens
    end = llama.tokenizer.token_id(END_OF_TEXT) if has_end else None
    config = {
        "bos_token_id": end,
        "eos_token_id": end,
        **_ONLY,
        **llama.config,
        "tie_word_embeddings": True,
        "architectures": ["LlamaForCausalLM"],
    }
    # Its old place: `transformers` 5 keeps it in rope_parameters, and would treat this one as a request.
    config.pop("rope_scaling")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    llama.tokenizer.save(folder)
    write_weights(folder, llama_weights(llama.backbone), prefix="model.")


def build_llama(config: dict[str, Any]) -> keras_hub.models.Llama3Backbone:
    """The layers that a Hugging Face `config.json` describes, with weights still to be loaded."""
    backbone = keras_hub.models.Llama3Backbone(
        vocabulary_size=config["vocab_size"],
        num_layers=config["num_hidden_layers"],
        num_query_heads=config["num_attention_heads"],
        num_key_value_heads=config["num_key_value_heads"],
        hidden_dim=config["hidden_size"],
        intermediate_dim=config["intermediate_size"],
        rope_max_wavelength=rotary_base(config),
        layer_norm_epsilon=config.get("rms_norm_eps", 1e-6),
        tie_word_embeddings=True,
    )
    # KerasHub's Llama has no maximum length; its GPT-2 has one, under this name.
    backbone.max_sequence_length = config["max_position_embeddings"]
    return backbone


def rotary_base(config: dict[str, Any]) -> float:
    """The longest wavelength of the rotary positions, over 2 pi tokens; `transformers` 5 moved it."""
    given = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta"))
    return 10_000.0 if given is None else float(given)


def llama_weights(backbone: keras_hub.models.Llama3Backbone) -> list[Weight]:
    """Every weight of a Llama under its Hugging Face name."""
    weights = [
        weight_of(
            "embed_tokens.weight", backbone.token_embedding.embeddings, of_tokens=True, tied="lm_head.weight"
        )
    ]
    for number, layer in enumerate(backbone.transformer_layers):
        weights += _layer_weights(layer, f"layers.{number}.", backbone.hidden_dim)
    return [*weights, weight_of("norm.weight", backbone.layer_norm.scale)]


def _layer_weights(layer: Any, prefix: str, hidden: int) -> Iterator[Weight]:
    attention = layer._self_attention_layer
    yield weight_of(prefix + "input_layernorm.weight", layer._self_attention_layernorm.scale)
    for name, dense in (
        ("self_attn.q_proj", attention._query_dense),
        ("self_attn.k_proj", attention._key_dense),
        ("self_attn.v_proj", attention._value_dense),
        ("self_attn.o_proj", attention._output_dense),
        ("mlp.gate_proj", layer._feedforward_gate_dense),
        ("mlp.up_proj", layer._feedforward_intermediate_dense),
    ):
        # All of them read the hidden states: the heads of the output product have the same total width.
        shape = (hidden, int(np.prod(dense.kernel.shape)) // hidden)
        yield Weight(f"{prefix}{name}.weight", (dense.kernel,), shape, transposed=True)
    down = layer._feedforward_output_dense.kernel
    yield weight_of(prefix + "mlp.down_proj.weight", down, transposed=True)
    yield weight_of(prefix + "post_attention_layernorm.weight", layer._feedforward_layernorm.scale)


def _extended(llama: Llama, special_tokens: Sequence[str]) -> Llama:
    """The same Llama with a larger vocabulary, or itself if it has all these tokens."""
    tokenizer = llama.tokenizer.with_special_tokens(special_tokens)
    added = [token for token in tokenizer.special_tokens if token not in llama.tokenizer.special_tokens]
    if not added:
        return llama
    config = {**llama.config, "vocab_size": tokenizer.vocabulary_size}
    backbone = build_llama(config)
    for old, new in zip(llama_weights(llama.backbone), llama_weights(backbone), strict=True):
        tensor = old.write()
        if old.name == "embed_tokens.weight":
            tensor = np.concatenate([tensor, control_embeddings(llama.tokenizer, tensor, added)])
        new.read(tensor)
    return Llama(backbone, tokenizer, llama.folder, config)


def _described(folder: Path) -> tuple[dict[str, Any], BytePair]:
    config, tokenizer = _read_config(folder), BytePair.from_folder(folder)
    return without_padding(config, tokenizer.vocabulary_size, folder), tokenizer


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_json_object(path)
    if not config:
        raise InputError(
            f"{path} is missing or empty. Name a folder with a Llama's config, weights and vocabulary."
        )
    if config.get("model_type") != "llama":
        raise InputError(
            f"{path} describes a {config.get('model_type')!r} model. Name the folder of a Llama."
        )
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    _check_sizes(config, str(path))
    rotary = config.get("rope_parameters") or {}
    found = {
        **{name: config.get(name, value) for name, value in _ONLY.items()},
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "rope_type": rotary.get("rope_type", "default"),
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
    }
    read = _ONLY | {
        "tie_word_embeddings": True,
        "rope_type": "default",
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
    }
    for name, value in read.items():
        if found[name] != value:
            raise InputError(f"{path}: {name} is {found[name]!r}; only models with {value!r} are supported.")
    return config


def _check_sizes(config: dict[str, Any], where: str) -> None:
    for key in _SIZES:
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise InputError(f"{where}: {key} must be a positive whole number; got {config.get(key)!r}.")
    hidden, heads, key_heads = (config[key] for key in (_SIZES[1], *_SIZES[4:6]))
    if hidden % (2 * heads) or heads % key_heads:
        raise InputError(
            f"{where}: a width of {hidden} cannot be divided among {heads} heads (of an even width each), "
            f"or {heads} heads cannot be divided among {key_heads} key heads."
        )
