"""Weights between Hugging Face safetensors and Keras variables, through a flat list of pairs."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from genre_tf.errors import InputError
from genre_tf.files import read_json_object

# Rows beyond the tokens that a checkpoint may have: more than a rounded number of rows needs (102,400 for
# 100,015 tokens is the most that is known), fewer than between the vocabularies of well-known models.
_PADDING_ROWS, _PADDING_SHARE = 128, 0.05


@dataclass(frozen=True)
class Weight:
    """One tensor of a checkpoint and the Keras variables that hold it.

    Attributes:
        name: its name in the checkpoint, without the prefix of a task model (`bert.`, `transformer.`).
        variables: Keras variables; several if the checkpoint keeps them side by side on the last axis.
        shape: shape of each part before any transposition; a Keras variable may split these axes further.
        transposed: whether the checkpoint stores it transposed, as PyTorch's Linear does.
        optional: whether the checkpoint may lack it.
        of_tokens: whether its first axis is the vocabulary; the checkpoint may have more rows, see
            `without_padding`.
        tied: another tensor of a checkpoint that is the same matrix, by its full name; "": none.
    """

    name: str
    variables: tuple[Any, ...]
    shape: tuple[int, ...]
    transposed: bool = False
    optional: bool = False
    of_tokens: bool = False
    tied: str = ""

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


def read_weights(folder: Path, weights: Iterable[Weight], prefixes: tuple[str, ...]) -> None:
    """Load Keras variables from the safetensors of a Hugging Face folder.

    Args:
        folder: contains `model.safetensors`, or its shards with `model.safetensors.index.json`.
        weights: what to load.
        prefixes: prefixes that task models put before the names; the empty one is always tried.

    Raises:
        InputError: a file is missing or damaged, or a tensor is missing, has a wrong shape or is not finite.
    """
    tensors = _read_tensors(folder)
    for weight, name in _found(folder, list(weights), {n: t.shape for n, t in tensors.items()}, prefixes):
        tensor = tensors[name][: weight.stored_shape[0]]  # without the rows of no token
        if not np.isfinite(tensor).all():
            raise InputError(f"{folder}: {weight.name} has values that are not finite. Fetch it again.")
        weight.read(tensor)


def check_weights(folder: Path, weights: Iterable[Weight], prefixes: tuple[str, ...]) -> None:
    """Check names and shapes as `read_weights` does, without reading values; raises the same errors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _files(folder):
        with _opened(folder, file) as opened:
            shapes |= {_modern(name): tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    for _ in _found(folder, list(weights), shapes, prefixes):
        pass


def of_layers(weights: Iterable[Weight], layer: str, layers: int) -> Iterator[Weight]:
    """The weights of a model with several equal layers, from those of one layer.

    Args:
        weights: weights of a model with a single layer.
        layer: the beginning of the names in a layer, with {} for its number.
        layers: number of layers.
    """
    first = layer.format(0)
    for weight in weights:
        for number in range(layers if weight.name.startswith(first) else 1):
            yield dataclasses.replace(weight, name=weight.name.replace(first, layer.format(number), 1))


def write_weights(folder: Path, weights: Iterable[Weight], prefix: str = "") -> None:
    """Write `model.safetensors` as `transformers` reads it, with a task model's prefix before the names."""
    tensors = {prefix + weight.name: weight.write() for weight in weights}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without_padding(config: dict[str, Any], tokens: int, where: Path | str) -> dict[str, Any]:
    """The configuration of a checkpoint without the embedding rows that belong to no token.

    Many checkpoints round their rows up, for example to a multiple of 64 (30,528 rows for 30,522 tokens). No
    text has these ids and no text may be written with them, so that they are left out when weights are read.

    Args:
        config: the content of its `config.json`.
        tokens: size of its vocabulary.
        where: its folder or name, for the message.

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
    folder: Path,
    weights: list[Weight],
    shapes: Mapping[str, tuple[int, ...]],
    prefixes: tuple[str, ...],
) -> Iterator[tuple[Weight, str]]:
    """Each weight that a checkpoint holds, and its full name there; raises an error for a wrong one."""
    prefix = _prefix(weights, shapes, prefixes)
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


def _prefix(weights: list[Weight], shapes: Mapping[str, tuple[int, ...]], prefixes: tuple[str, ...]) -> str:
    """The prefix of most names: a known one, or a wrapper's, such as `module.`, if there is only one."""
    first = next((weight for weight in weights if not weight.optional), weights[0]).name
    others = {name.removesuffix(first) for name in shapes if name.endswith(f".{first}")} - {*prefixes}
    tried = (*prefixes, "", *(others if len(others) == 1 else ()))
    return max(tried, key=lambda each: sum(each + weight.name in shapes for weight in weights))


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for file in _files(folder):
        with _opened(folder, file) as opened:
            tensors |= {_modern(name): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors


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
