"""Variables that a refresh can rewrite: of open length along one axis, and listed by name."""

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
    """Values of the variables in a module and its submodules.

    Args:
        module: a module whose variables and submodules are attributes.
        prefix: prefix of all names.

    Returns:
        Path (such as `titles` or `nearest.blocks`) to value.
    """
    values: dict[str, tf.Tensor] = {}
    for name, held in vars(module).items():
        if isinstance(held, tf.Variable):
            values[prefix + name] = held.value()
        elif isinstance(held, tf.Module):
            values |= variable_values(held, f"{prefix}{name}.")
    return values
