"""Writing a SavedModel that TensorFlow Serving can answer from.

`keras.export.ExportArchive` and never `tf.saved_model.save`: what the latter makes of a Keras 3 model loads
on TensorFlow Serving and then fails every request (BUILD_NOTES.md, Fact 2).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

InputTypes = Mapping[str, tf.DType]


def write_saved_model(
    folder: Path, resources: Sequence[Any], signatures: Mapping[str, tuple[Callable[..., Any], InputTypes]]
) -> None:
    """Write signatures and everything they use.

    Args:
        folder: to write; may exist and be empty.
        resources: whatever holds look-up tables; variables are found by themselves.
        signatures: name to a function of tensors [B], which gives {output: tensor [B, …]}, and the dtypes of
            its inputs. The first is the default one.
    """
    archive = keras.export.ExportArchive()
    for resource in resources:
        archive.track(resource)
    for name, (function, inputs) in signatures.items():
        specs = [tf.TensorSpec([None], dtype, key) for key, dtype in inputs.items()]
        archive.add_endpoint(name, function, specs)
    archive.write_out(str(folder), verbose=False)
