"""Pretrained transformers as Hugging Face folders: one way to read and write them, and their tables."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from genre_tf.backbones.hub import hub_parts, set_arithmetic
from genre_tf.errors import InputError
from genre_tf.files import read_json_object
from genre_tf.layers.block import flat_shape
from genre_tf.layers.elementwise import ACTIVATIONS

Config = dict[str, Any]
"""The content of a Hugging Face `config.json`."""
Shapes = Mapping[str, tuple[int, ...]]

# Rows beyond the tokens that a checkpoint may have: more than a rounded number of rows needs (102,400 for
# 100,015 tokens is the most that is known), fewer than between the vocabularies of well-known models.
_PADDING_ROWS, _PADDING_SHARE = 128, 0.05


@dataclass(frozen=True)
class Pretrained:
    """A transformer and its tokenizer."""

    backbone: Any  # the KerasHub layers
    tokenizer: Any  # converts strings to token ids
    folder: Path | None  # the Hugging Face folder it was read from; None for a preset or a new one
    config: Config

    def get_config(self) -> Config:
        """Sizes and tokenizer in plain data, from which `Family.from_config` makes one with new weights."""
        return {**self.tokenizer.get_config(), "config": self.config}


@dataclass(frozen=True)
class Weight:
    """One tensor of a checkpoint and the Keras variables that hold it."""

    name: str  # in the checkpoint, without the prefix of a task model (`bert.`, `transformer.`)
    variables: tuple[Any, ...]  # several if the checkpoint keeps them side by side on the last axis
    shape: tuple[int, ...]  # of each part before transposition; a Keras variable may split these axes further
    transposed: bool = False  # whether the checkpoint stores it transposed, as PyTorch's Linear does
    optional: bool = False  # whether the checkpoint may lack it
    of_tokens: bool = False  # the first axis is the vocabulary; there may be more rows, see `without_padding`
    tied: str = ""  # another tensor of a checkpoint that is the same matrix, by its full name

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape in the checkpoint."""
        whole = (*self.shape[:-1], self.shape[-1] * len(self.variables))
        return whole[::-1] if self.transposed else whole

    def read(self, tensor: np.ndarray) -> None:
        """Assign the checkpoint's tensor to the variables."""
        whole = np.asarray(tensor.T if self.transposed else tensor, np.float32)
        for variable, part in zip(self.variables, np.split(whole, len(self.variables), -1), strict=True):
            variable.assign(part.reshape(variable.shape))

    def write(self) -> np.ndarray:
        """The checkpoint's tensor, built from the variables: float32."""
        parts = [np.asarray(v, np.float32).reshape(self.shape) for v in self.variables]
        whole = np.concatenate(parts, -1)
        return np.ascontiguousarray(whole.T if self.transposed else whole)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between the checkpoints of BERT, GPT-2 and Llama."""

    name: str  # as messages call it
    model_type: str  # in config.json; may be absent there if `untyped`
    untyped: bool = True
    model: type[Any]  # a kind of `Pretrained`
    tokenizer: type[Any]
    hub: type[Any]  # KerasHub's backbone
    sizes: Mapping[str, str]  # its arguments, and the keys in config.json that hold them
    dropout: tuple[str, ...] = ()  # keys of dropout rates; the first one is used
    options: Callable[[Config], Config] = lambda config: {}  # further arguments of the backbone
    activation: tuple[str, str] | None = None  # key in config.json, and default; None: there is only one
    epsilon: tuple[str, float] | None = None  # the same for the constant in norms
    same_as: Mapping[str, str] = field(default_factory=dict)  # keys that may be missing, and stand-ins
    only: Callable[[Config], Iterable[tuple[str, Any, Any]]]  # keys, what was found, and what is supported
    outer: Sequence[tuple[str, str]]  # names in the checkpoint, and the parts of the backbone they belong to
    inner: Sequence[tuple[str, str]]  # the same in a layer; several names of `Parts` lie side by side
    layer: str  # the beginning of the names in a layer, with {} for its number
    transposed: bool  # whether kernels are stored as PyTorch's Linear stores them
    optional: str | None = None  # beginning of names that a checkpoint may lack
    tied: str  # another name of the token embeddings
    prefixes: tuple[str, ...]  # what task models put before the names
    saved_prefix: str = ""  # what is put before them in a written folder
    new_entries: Mapping[str, Any] = field(default_factory=dict)  # of the config.json of a new model
    saved: Mapping[str, Any] = field(default_factory=dict)  # of a written one, unless the model's own differ
    before_sum: str | None = None  # end of the names of kernels before a residual sum, drawn smaller

    @property
    def rotary(self) -> bool:
        """Whether positions turn the two halves of queries and keys, as in Llama; else they are embedded."""
        return "num_key_value_heads" in self.sizes

    def build(self, config: Config, dropout: float | None = None) -> Any:
        """The KerasHub backbone of a `config.json`, with weights still to be loaded.

        Here and below `dropout` is the rate in training; None: the configuration's own.
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

    def from_config(self, described: Config, dropout: float | None = None) -> Any:
        """The model that `Pretrained.get_config` describes, with weights still to be loaded."""
        config = described["config"]
        tokenizer = self.tokenizer.from_config(described)
        return self.model(self.build(config, dropout), tokenizer, None, config)

    def weights(self, backbone: Any) -> list[Weight]:
        """Every weight of a backbone under its Hugging Face name."""
        places = [(name, [part], [getattr(backbone, part)]) for name, part in self.outer]
        for number, layer in enumerate(backbone.transformer_layers):
            parts = hub_parts(layer)
            for name, together in self.inner:
                names = together.split()
                places.append((self.layer.format(number) + name, names, [parts[each] for each in names]))
        found = []
        for name, names, layers in places:
            tokens = names[0] == "token_embedding"
            optional = self.optional is not None and name.startswith(self.optional)
            tied = self.tied if tokens else ""
            for weight in layer_weights(name, layers, self.transposed, split_inputs=names[0] == "project"):
                found.append(dataclasses.replace(weight, optional=optional, of_tokens=tokens, tied=tied))
        return found

    def read(self, folder: Path, dropout: float | None = None) -> Any:
        """Read a Hugging Face folder.

        Raises:
            InputError: files are missing, damaged or of another family, or do not match each other.
        """
        config, tokenizer = self._described(folder)
        backbone = self.build(config, dropout)
        read_weights(folder, self.weights(backbone), self.prefixes)
        return self.model(backbone, tokenizer, folder, config)

    def check(self, folder: Path) -> Any:
        """Check a folder without reading the values of its weights; raises the same errors as `read`.

        Returns a model of these sizes with one layer and random weights.
        """
        config, tokenizer = self._described(folder)
        layers = self.sizes["num_layers"]
        one, first = self.build({**config, layers: 1}), self.layer.format(0)
        weights = [
            dataclasses.replace(weight, name=weight.name.replace(first, self.layer.format(number), 1))
            for weight in self.weights(one)
            for number in range(config[layers] if weight.name.startswith(first) else 1)
        ]
        shapes: dict[str, tuple[int, ...]] = {}
        for file in _files(folder):
            with _opened(folder, file) as opened:
                shapes |= {_modern(name): tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        for _ in _found(folder, weights, shapes, self.prefixes):
            pass
        return self.model(one, tokenizer, folder, config)

    def new(
        self,
        tokenizer: Any,
        *,
        layers: int,
        heads: int,
        hidden: int,
        max_tokens: int = 512,
        dropout: float = 0.1,
        key_heads: int | None = None,
        intermediate: int | None = None,
        seed: int = 0,
    ) -> Any:
        """A model with random weights; the same seed gives the same weights.

        `hidden` is the width of the states and a multiple of `heads`, which is a multiple of `key_heads`
        (None: as many); `intermediate` is the width of the feed-forward layers (None: four times the
        states'). Other sizes are an `InputError`.

        Source: Radford et al. 2019; kernels before a residual sum are divided by the square root of the
        number of such sums.
        """
        sizes = {
            "vocabulary_size": tokenizer.vocabulary_size,
            "num_layers": layers,
            "num_heads": heads,
            "num_query_heads": heads,
            "num_key_value_heads": key_heads or heads,
            "hidden_dim": hidden,
            "intermediate_dim": intermediate or 4 * hidden,
            "max_sequence_length": max_tokens,
        }
        config = {theirs: sizes[ours] for ours, theirs in self.sizes.items()}
        config |= {**dict.fromkeys(self.dropout, dropout), **self.new_entries}
        self._check_sizes(config, f"A new {self.name}")
        backbone = self.build(config)
        generator = np.random.default_rng(seed)
        smaller = 1 / np.sqrt(2 * backbone.num_layers)
        for weight in self.weights(backbone):
            if len(weight.stored_shape) > 1:
                before_sum = self.before_sum is not None and weight.name.endswith(self.before_sum)
                deviation = 0.02 * (smaller if before_sum else 1.0)
                weight.read(generator.normal(0.0, deviation, weight.stored_shape).astype(np.float32))
        return self.model(backbone, tokenizer, None, config)

    def save(self, model: Pretrained, folder: Path, defaults: Config, fixed: Config) -> None:
        """Write a folder that `read` and `transformers` can read: configuration, vocabulary, safetensors.

        The model's own configuration may overrule `defaults`, but not `fixed`.
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

    def _described(self, folder: Path) -> tuple[Config, Any]:
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
        tokenizer = self.tokenizer.from_folder(folder)
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

    The layers are dense, with kernels that may be split by heads (their inputs, or else their outputs); one
    embedding, or one normalization. `transposed` says whether kernels are stored as PyTorch's Linear does.
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


def read_weights(folder: Path, weights: Iterable[Weight], prefixes: tuple[str, ...]) -> None:
    """Load Keras variables from `model.safetensors`, or its shards, in a Hugging Face folder.

    Task models put one of `prefixes` before the names; the empty one is always tried.

    Raises:
        InputError: a file is missing or damaged, or a tensor is missing, has a wrong shape or is not finite.
    """
    tensors: dict[str, np.ndarray] = {}
    for file in _files(folder):
        with _opened(folder, file) as opened:
            tensors |= {_modern(name): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for weight, name in _found(folder, list(weights), {n: t.shape for n, t in tensors.items()}, prefixes):
        tensor = tensors[name][: weight.stored_shape[0]]  # without the rows of no token
        if not np.isfinite(tensor).all():
            raise InputError(f"{folder}: {weight.name} has values that are not finite. Fetch it again.")
        weight.read(tensor)


def write_weights(folder: Path, weights: Iterable[Weight], prefix: str = "") -> None:
    """Write `model.safetensors` as `transformers` reads it, with a task model's prefix before the names."""
    tensors = {prefix + weight.name: weight.write() for weight in weights}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without_padding(config: Config, tokens: int, where: Path | str) -> Config:
    """The configuration of a checkpoint without the embedding rows that belong to no token.

    Many checkpoints round their rows up, for example to a multiple of 64 (30,528 rows for 30,522 tokens). No
    text has these ids and no text may be written with them, so that they are left out when weights are read.

    Raises:
        InputError: there are more tokens than rows, or so many rows that they are another vocabulary's.
    """
    if not _may_be_padded(config["vocab_size"], tokens):
        raise InputError(
            f"{where}: the vocabulary has {tokens} tokens, but config.json says "
            f"vocab_size {config['vocab_size']}. Put this model's own vocabulary into the folder."
        )
    return {**config, "vocab_size": tokens}


def _may_be_padded(rows: int, tokens: int) -> bool:
    return tokens <= rows <= tokens + max(_PADDING_ROWS, tokens * _PADDING_SHARE)


def _found(
    folder: Path, weights: list[Weight], shapes: Shapes, prefixes: tuple[str, ...]
) -> Iterator[tuple[Weight, str]]:
    """Each weight that a checkpoint holds, and its full name there; raises an error for a wrong one."""
    # The prefix of most names: a known one, or a wrapper's, such as `module.`, if there is only one.
    first = next((weight for weight in weights if not weight.optional), weights[0]).name
    others = {name.removesuffix(first) for name in shapes if name.endswith(f".{first}")} - {*prefixes}
    tried = (*prefixes, "", *(others if len(others) == 1 else ()))
    prefix = max(tried, key=lambda each: sum(each + weight.name in shapes for weight in weights))
    for weight in weights:
        name = next((each for each in (prefix + weight.name, weight.tied) if each in shapes), None)
        if name is None and weight.optional:
            continue
        if name is None:
            raise InputError(f"{folder}: the weights lack {weight.name}. Name a folder with the whole model.")
        shape, expected = shapes[name], weight.stored_shape
        if weight.of_tokens and shape and _may_be_padded(shape[0], expected[0]):
            shape = (expected[0], *shape[1:])
        if shape != expected:
            raise InputError(
                f"{folder}: {name.removeprefix(prefix)} has shape {list(shapes[name])}, but config.json and "
                f"the vocabulary require {list(expected)}. The files are from different models."
            )
        yield weight, name


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    places = read_json_object(index).get("weight_map")
    if not isinstance(places, dict):
        raise InputError(f"{index} has no weight_map. Fetch the file again.")
    return [folder / Path(name).name for name in sorted(set(map(str, places.values())))]


@contextlib.contextmanager
def _opened(folder: Path, file: Path) -> Iterator[Any]:
    if not file.is_file():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        raise InputError(
            f"{file} is missing."
            + (
                " Pickled weights (.bin, .pt) are not read, because a pickle can run any code: "
                "save the model as safetensors with transformers' save_pretrained."
                if pickled
                else " Name a folder with config.json, model.safetensors and the vocabulary."
            )
        )
    try:
        with safetensors.safe_open(file, framework="np") as opened:
            yield opened
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged or not a safetensors file ({error}). Fetch it again.") from error


def _modern(name: str) -> str:
    """Old BERT checkpoints, converted from TensorFlow 1, call a norm's weight and bias gamma and beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
