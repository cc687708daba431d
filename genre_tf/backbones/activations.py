"""Activations by the names that Hugging Face configurations give them."""

import functools

import keras

_tanh_gelu = functools.partial(keras.activations.gelu, approximate=True)
# KerasHub always takes the tanh approximation of GELU; a checkpoint may have been trained with the exact one.
ACTIVATIONS = {
    "gelu": functools.partial(keras.activations.gelu, approximate=False),
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": keras.activations.relu,
}
