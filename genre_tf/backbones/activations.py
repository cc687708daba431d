"""Activations by their names in Hugging Face configurations."""

import functools

import keras

_tanh_gelu = functools.partial(keras.activations.gelu, approximate=True)
# KerasHub always uses the tanh approximation of GELU; a checkpoint may have been trained with the exact one.
ACTIVATIONS = {
    "gelu": functools.partial(keras.activations.gelu, approximate=False),
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": keras.activations.relu,
}
