"""Weights between Hugging Face safetensors and Keras variables, through a flat list of pairs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from genre_tf.errors import InputError
from genre_tf.text.json_files import read_json_object


@dataclass(frozen=True)
class Weight:
    """One tensor of a checkpoint and the Keras variables that hold it.

    Attributes:
        name: its name in the checkpoint, without the prefix of a task model (`bert.`, `transformer.`).
        variables: Keras variables; several if the checkpoint keeps them side by side on the last axis.
        shape: shape of each part before any transposition; a Keras variable may split these axes further.
        transposed: whether the checkpoint stores it transposed, as PyTorch's Linear does.
        optional: whether the checkpoint may lack it.
    """

    name: str
    variables: tuple[Any, ...]
    shape: tuple[int, ...]
    transposed: bool = False
    optional: bool = False

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


def weight_of(name: str, variable: Any, **options: Any) -> Weight:
    """A weight whose axes are the same on both sides."""
    return Weight(name, (variable,), tuple(variable.shape), **options)


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
    prefix = _prefix(tensors, weights := list(weights), prefixes)
    for weight in weights:
        tensor = tensors.get(prefix + weight.name)
        if tensor is None and weight.optional:
            continue
        if tensor is None:
            raise InputError(f"{folder}: the weights lack {weight.name}. Name a folder with the whole model.")
        if tensor.shape != weight.stored_shape:
            raise InputError(
                f"{folder}: {weight.name} has shape {list(tensor.shape)}, but config.json requires "
                f"{list(weight.stored_shape)}. The weights and the configuration are from different models."
            )
        if not np.isfinite(tensor).all():
            raise InputError(f"{folder}: {weight.name} has values that are not finite. Fetch it again.")
        weight.read(tensor)


def write_weights(folder: Path, weights: Iterable[Weight], prefix: str = "") -> None:
    """Write `model.safetensors` as `transformers` reads it, with a task model's prefix before the names."""
    tensors = {prefix + weight.name: weight.write() for weight in weights}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _prefix(tensors: Mapping[str, np.ndarray], weights: list[Weight], prefixes: tuple[str, ...]) -> str:
    first = weights[0].name
    return next((prefix for prefix in prefixes if prefix + first in tensors), "")


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        places = read_json_object(index).get("weight_map")
        if not isinstance(places, dict):
            raise InputError(f"{index} has no weight_map. Fetch the file again.")
        names = sorted(set(map(str, places.values())))
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        tensors |= _read_file(folder, folder / Path(name).name)
    return {_modern(name): tensor for name, tensor in tensors.items()}


def _read_file(folder: Path, file: Path) -> dict[str, np.ndarray]:
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
        return dict(safetensors.numpy.load_file(file))
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged or not a safetensors file ({error}). Fetch it again.") from error


def _modern(name: str) -> str:
    """Old BERT checkpoints, converted from TensorFlow 1, call a norm's weight and bias gamma and beta."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
