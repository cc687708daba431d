"""Variables that a refresh can rewrite: open along one axis, and found by their names."""

from typing import Any

import numpy.typing as npt
import tensorflow as tf


def open_variable(value: npt.NDArray[Any] | tf.Tensor, name: str, open_axis: int = 0) -> tf.Variable:
    """A variable that may grow along one axis, so that a refresh can rewrite it."""
    start = tf.convert_to_tensor(value)
    shape = start.shape.as_list()
    shape[open_axis] = None
    return tf.Variable(start, trainable=False, name=name, shape=tf.TensorShape(shape))


def variable_values(module: tf.Module, prefix: str = "") -> dict[str, tf.Tensor]:
    """Values of the variables that a module and its submodules hold.

    Args:
        module: variables and modules are found where they are attributes.
        prefix: of all names.

    Returns:
        By path: `titles`, `nearest.blocks`.
    """
    values: dict[str, tf.Tensor] = {}
    for name, held in vars(module).items():
        if isinstance(held, tf.Variable):
            values[prefix + name] = held.value()
        elif isinstance(held, tf.Module):
            values |= variable_values(held, f"{prefix}{name}.")
    return values
