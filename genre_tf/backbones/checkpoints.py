"""Pretrained transformers as Hugging Face folders: one way to read and write them, and their tables."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.backbones.hub import hub_parts, set_arithmetic
from genre_tf.backbones.weights import (
    Weight,
    check_weights,
    of_layers,
    read_weights,
    without_padding,
    write_weights,
)
from genre_tf.errors import InputError
from genre_tf.files import read_json_object
from genre_tf.layers.block import flat_shape
from genre_tf.layers.elementwise import ACTIVATIONS

Config = dict[str, Any]
"""The content of a Hugging Face `config.json`."""


@dataclass(frozen=True)
class Pretrained:
    """A transformer and its tokenizer.

    Attributes:
        backbone: the KerasHub layers.
        tokenizer: converts strings to token ids.
        folder: the Hugging Face folder it was read from; None for a preset or a new one.
        config: the content of its Hugging Face `config.json`.
    """

    backbone: Any
    tokenizer: Any
    folder: Path | None
    config: Config


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between the checkpoints of BERT, GPT-2 and Llama.

    Attributes:
        name: as messages call it.
        model_type: `model_type` in `config.json`; None is allowed if `untyped`.
        hub: KerasHub's backbone.
        sizes: its arguments, and the keys in `config.json` that hold them.
        dropout: keys of dropout rates; the first one is used.
        options: further arguments of the backbone, from a `config.json`.
        activation: the key of the activation in `config.json` and its default; None: there is only one.
        epsilon: the same for the constant in norms.
        same_as: keys that a `config.json` may lack, and those whose values they then have.
        only: of a `config.json`, what it must say: keys, what was found, and what is supported.
        outer: a flat list: names in the checkpoint, and the parts of the backbone that they belong to.
        inner: the same for a layer and the names of `Parts`; several parts lie side by side.
        layer: the beginning of the names in a layer, with {} for its number.
        transposed: whether kernels are stored as PyTorch's Linear stores them.
        optional: beginnings of names that a checkpoint may lack.
        tied: another name of the token embeddings.
        prefixes: what task models put before the names.
        saved_prefix: what is put before them in a written folder.
        saved: entries of a written `config.json` unless the model's own says otherwise.
        before_sum: end of the names of kernels that are drawn smaller in a new model, because their results
            are added up in every layer.
    """

    name: str
    model_type: str
    untyped: bool = True
    hub: type[Any]
    sizes: Mapping[str, str]
    dropout: tuple[str, ...] = ()
    options: Callable[[Config], Config] = lambda config: {}
    activation: tuple[str, str] | None = None
    epsilon: tuple[str, float] | None = None
    same_as: Mapping[str, str] = field(default_factory=dict)
    only: Callable[[Config], Iterable[tuple[str, Any, Any]]]
    outer: Sequence[tuple[str, str]]
    inner: Sequence[tuple[str, str]]
    layer: str
    transposed: bool
    optional: str | None = None
    tied: str
    prefixes: tuple[str, ...]
    saved_prefix: str = ""
    saved: Mapping[str, Any] = field(default_factory=dict)
    before_sum: str | None = None

    @property
    def rotary(self) -> bool:
        """Whether positions turn the two halves of queries and keys, as in Llama; else they are embedded."""
        return "num_key_value_heads" in self.sizes

    def build(self, config: Config, dropout: float | None = None) -> Any:
        """The KerasHub backbone that a `config.json` describes, with weights still to be loaded.

        Args:
            config: the content of the file.
            dropout: dropout rate in training; None: the configuration's own.
        """
        arguments = {ours: config[theirs] for ours, theirs in self.sizes.items()} | self.options(config)
        if self.dropout:
            arguments["dropout"] = config.get(self.dropout[0], 0.1) if dropout is None else dropout
        longest = arguments["max_sequence_length"]
        if self.rotary:  # KerasHub's Llama has no maximum length; its others have one, under this name
            del arguments["max_sequence_length"]
        backbone = self.hub(**arguments)
        backbone.max_sequence_length = longest
        if self.activation and self.epsilon:
            set_arithmetic(backbone, ACTIVATIONS[config.get(*self.activation)], config.get(*self.epsilon))
        return backbone

    def weights(self, backbone: Any) -> list[Weight]:
        """Every weight of a backbone under its Hugging Face name."""
        found: list[Weight] = []
        for name, part in self.outer:
            found += self._weights(name, [part], [getattr(backbone, part)])
        for number, layer in enumerate(backbone.transformer_layers):
            parts = hub_parts(layer)
            for name, together in self.inner:
                names = together.split()
                found += self._weights(self.layer.format(number) + name, names, [parts[x] for x in names])
        return found

    def _weights(self, name: str, parts: list[str], layers: list[Any]) -> Iterator[Weight]:
        """The weights of layers that a checkpoint keeps side by side under one name."""
        tokens = parts[0] == "token_embedding"
        for weight in layer_weights(name, layers, self.transposed, split_inputs=parts[0] == "project"):
            optional = self.optional is not None and name.startswith(self.optional)
            tied = self.tied if tokens else ""
            yield dataclasses.replace(weight, optional=optional, of_tokens=tokens, tied=tied)

    def read(self, folder: Path, read_tokenizer: Callable[[Path], Any], dropout: float | None) -> Pretrained:
        """Read a Hugging Face folder.

        Args:
            folder: the folder.
            read_tokenizer: reads the tokenizer in it.
            dropout: dropout rate in training; None: the checkpoint's own.

        Raises:
            InputError: files are missing, damaged or of another family, or do not match each other.
        """
        config, tokenizer = self._described(folder, read_tokenizer)
        backbone = self.build(config, dropout)
        read_weights(folder, self.weights(backbone), self.prefixes)
        return Pretrained(backbone, tokenizer, folder, config)

    def check(self, folder: Path, read_tokenizer: Callable[[Path], Any]) -> Pretrained:
        """Check a folder without reading the values of its weights; raises the same errors as `read`.

        Returns:
            A model of these sizes with one layer and random weights.
        """
        config, tokenizer = self._described(folder, read_tokenizer)
        layers = self.sizes["num_layers"]
        one = self.build({**config, layers: 1})
        check_weights(folder, of_layers(self.weights(one), self.layer, config[layers]), self.prefixes)
        return Pretrained(one, tokenizer, folder, config)

    def new(self, config: Config, tokenizer: Any, seed: int) -> Pretrained:
        """A model with random weights; the same seed gives the same weights.

        Raises:
            InputError: the sizes do not fit each other.
        """
        self._check_sizes(config, f"A new {self.name}")
        backbone = self.build(config)
        generator = np.random.default_rng(seed)
        smaller = 1 / np.sqrt(2 * backbone.num_layers)
        for weight in self.weights(backbone):
            if len(weight.stored_shape) > 1:
                before_sum = self.before_sum is not None and weight.name.endswith(self.before_sum)
                deviation = 0.02 * (smaller if before_sum else 1.0)
                weight.read(generator.normal(0.0, deviation, weight.stored_shape).astype(np.float32))
        return Pretrained(backbone, tokenizer, None, config)

    def save(self, model: Pretrained, folder: Path, defaults: Config, fixed: Config) -> None:
        """Write a folder that `read` and `transformers` can read: configuration, vocabulary, safetensors.

        Args:
            model: the model.
            folder: created if it does not exist.
            defaults: entries of `config.json` that the model's own configuration may overrule.
            fixed: entries that it may not.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = {**self.saved, **defaults, **model.config, **fixed, "model_type": self.model_type}
        # Its old place: `transformers` 5 keeps it in rope_parameters, and would treat this one as a request.
        config.pop("rope_scaling", None)
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        model.tokenizer.save(folder)
        write_weights(folder, self.weights(model.backbone), self.saved_prefix)

    def config_of(self, backbone: Any) -> Config:
        """The sizes of a backbone as in `config.json`."""
        rates = dict.fromkeys(self.dropout, backbone.dropout)
        return {theirs: getattr(backbone, ours) for ours, theirs in self.sizes.items()} | rates

    def _described(self, folder: Path, read_tokenizer: Callable[[Path], Any]) -> tuple[Config, Any]:
        path = folder / "config.json"
        config = read_json_object(path)
        if not config:
            raise InputError(
                f"{path} is missing or empty. Name a folder with a {self.name}'s config, weights and "
                "vocabulary."
            )
        if config.get("model_type", self.model_type if self.untyped else None) != self.model_type:
            raise InputError(
                f"{path} describes a {config.get('model_type')!r} model. Name the folder of a {self.name}."
            )
        for key, other in self.same_as.items():
            config.setdefault(key, config.get(other))
        self._check_sizes(config, str(path))
        if self.activation and config.get(*self.activation) not in ACTIVATIONS:
            key, _ = self.activation
            raise InputError(f"{path}: {key} {config[key]!r} is unknown; known are {', '.join(ACTIVATIONS)}.")
        for key, value, supported in self.only(config):
            if value != supported:
                raise InputError(f"{path}: {key} is {value!r}; only models with {supported!r} are supported.")
        tokenizer = read_tokenizer(folder)
        return without_padding(config, tokenizer.vocabulary_size, folder), tokenizer

    def _check_sizes(self, config: Config, where: str) -> None:
        for key in self.sizes.values():
            if not isinstance(config.get(key), int) or config[key] < 1:
                raise InputError(f"{where}: {key} must be a positive whole number; got {config.get(key)!r}.")
        width = config[self.sizes["hidden_dim"]]
        heads = config[self.sizes["num_query_heads" if self.rotary else "num_heads"]]
        key_heads = config[self.sizes["num_key_value_heads"]] if self.rotary else heads
        if width % (2 * heads if self.rotary else heads) or heads % key_heads:
            even = f" of an even width each, or these among {key_heads} key heads" if self.rotary else ""
            raise InputError(f"{where}: a width of {width} cannot be divided among {heads} heads{even}.")


# What checkpoints call weight and bias, and the attributes of Keras and KerasHub layers, the first of which
# counts: Keras' LayerNormalization has a switch named `scale`.
_ATTRIBUTES = {
    "weight": ("embeddings", "position_embeddings", "gamma", "scale", "kernel"),
    "bias": ("beta", "bias"),
}


def layer_weights(
    name: str, layers: Sequence[Any], transposed: bool, split_inputs: bool = False
) -> Iterator[Weight]:
    """The weights of Keras layers of one kind that a checkpoint keeps side by side under one name.

    Args:
        name: the name, without `.weight` and `.bias`.
        layers: dense layers, whose kernels may be split by heads; one embedding, or one normalization.
        transposed: whether the checkpoint stores kernels as PyTorch's Linear does.
        split_inputs: whether the inputs of a kernel are split by heads, not its outputs.
    """
    for end, attributes in _ATTRIBUTES.items():
        attribute = next((each for each in attributes if hasattr(layers[0], each)), None)
        found = [getattr(layer, attribute) for layer in layers] if attribute else [None]
        if found[0] is None:
            continue
        kernel = getattr(layers[0], "kernel", None)
        shape = tuple(found[0].shape)
        if kernel is not None:
            shape = flat_shape(kernel, split_inputs) if end == "weight" else (math.prod(shape),)
        is_kernel = kernel is not None and end == "weight"
        yield Weight(f"{name}.{end}", tuple(found), shape, transposed=transposed and is_kernel)
