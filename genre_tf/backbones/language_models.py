"""Language models of both families (GPT-2, Llama), by name or configuration, and their training layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from genre_tf.backbones.gpt2 import Gpt2, build_backbone, check_gpt2, load_gpt2, save_gpt2
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.backbones.sources import resolve_backbone
from genre_tf.backbones.trainable import Trainable, parse_trainable
from genre_tf.errors import InputError
from genre_tf.text.byte_pair import BytePair
from genre_tf.text.json_files import read_json_object

GPT2, LLAMA = "gpt2", "llama"


class LanguageModel(Protocol):
    """A language model and its tokenizer: `Gpt2` or `Llama`."""

    @property
    def backbone(self) -> Any:
        """The KerasHub layers."""

    @property
    def tokenizer(self) -> BytePair:
        """Converts strings to token ids and back."""

    @property
    def folder(self) -> Path | None:
        """The Hugging Face folder it was read from; None if it was not read from one."""

    @property
    def config(self) -> dict[str, Any]:
        """The content of its Hugging Face `config.json`."""


def load_language_model(name: str, special_tokens: Sequence[str] = ()) -> LanguageModel:
    """Read a language model; its configuration determines the family.

    Args:
        name: a backbone name in any form of `resolve_backbone`.
        special_tokens: control tokens that it must have; missing ones are added.

    Raises:
        InputError: files are missing, damaged or of another family, or do not match each other.
    """
    folder = resolve_backbone(name).folder
    if folder is not None and family_of(read_json_object(folder / "config.json")) == LLAMA:
        from genre_tf.backbones.llama import load_llama

        llama: LanguageModel = load_llama(name, special_tokens)
        return llama
    return load_gpt2(name, special_tokens=special_tokens)


def check_language_model(name: str) -> LanguageModel:
    """Check a backbone before work that comes first: configuration, vocabulary, names and shapes of weights.

    Args:
        name: a backbone name in any form of `resolve_backbone`.

    Returns:
        A model of its sizes with at least one of its layers, to check settings against. Only of a Keras
        preset, which has no such files, the weights are read.

    Raises:
        InputError: as in `load_language_model`, except for the values of weights.
    """
    folder = resolve_backbone(name).folder
    if folder is None:
        return load_gpt2(name)
    if family_of(read_json_object(folder / "config.json")) == LLAMA:
        from genre_tf.backbones.llama import check_llama

        llama: LanguageModel = check_llama(folder)
        return llama
    return check_gpt2(folder)


def save_language_model(backbone: Any, tokenizer: BytePair, config: dict[str, Any], folder: Path) -> None:
    """Write a folder that `load_language_model` and `transformers` can read.

    Args:
        backbone: as KerasHub built it.
        tokenizer: its tokenizer, including control tokens.
        config: its `config.json`.
        folder: created if it does not exist.
    """
    if family_of(config) == LLAMA:
        from genre_tf.backbones.llama import Llama, save_llama

        save_llama(Llama(backbone, tokenizer, None, config), folder)
    else:
        save_gpt2(Gpt2(backbone, tokenizer, None, config), folder)


def family_of(config: dict[str, Any]) -> str:
    """The family that a Hugging Face `config.json` names; GPT-2 if it names none."""
    return LLAMA if config.get("model_type") == LLAMA else GPT2


def build_language_model(config: dict[str, Any], dropout: float | None = None) -> Any:
    """The KerasHub backbone that a `config.json` describes, with weights still to be loaded."""
    if family_of(config) == LLAMA:
        from genre_tf.backbones.llama import build_llama

        return build_llama(config)
    return build_backbone(config, dropout)


def described_language_model(described: dict[str, Any]) -> LanguageModel:
    """A language model with weights still to be loaded.

    Args:
        described: the tokenizer's `get_config`, and the model's `config.json` as `config`.
    """
    config = described["config"]
    backbone, tokenizer = build_language_model(config), BytePair.from_config(described)
    if family_of(config) == LLAMA:
        from genre_tf.backbones.llama import Llama

        llama: LanguageModel = Llama(backbone, tokenizer, None, config)
        return llama
    return Gpt2(backbone, tokenizer, None, config)


def layers_of(backbone: Any, config: dict[str, Any], trainable: Trainable, control_ids: Sequence[int]) -> Any:
    """The layers of a language model in training.

    Args:
        backbone: as KerasHub built it.
        config: its `config.json`.
        trainable: what to train; see `parse_writer_trainable`.
        control_ids: tokens whose embeddings are trained even if the others are not.
    """
    return LanguageLayers(backbone, trainable, control_ids)


def parse_writer_trainable(text: str) -> Trainable:
    """Parse `none`, `lora R` or `all`.

    Raises:
        InputError: the text is anything else.
    """
    found = parse_trainable(text)
    if found.last is None and found.method in ("layers", "lora"):
        return found
    if found == Trainable(last=0):
        return found
    raise InputError(f"a writer's trainable must be none, lora R (such as lora 8) or all; got {text!r}")
