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
    folder: Path,
    resources: Sequence[Any],
    signatures: Mapping[str, tuple[Callable[..., Any], InputTypes]],
    device_functions: Mapping[str, Any] | None = None,
) -> None:
    """Write signatures and everything they use.

    Args:
        folder: to write; may exist and be empty.
        resources: whatever holds look-up tables; variables are found by themselves.
        signatures: name to a function of tensors [B], which gives {output: tensor [B, …]}, and the dtypes of
            its inputs. The first is the default one.
        device_functions: alias to a `tf.function` that a signature calls: what an accelerator may compute as
            a whole, such as the layers of an encoder. The SavedModel names them under `function_aliases`,
            where Google's inference converter for Cloud TPU looks for `tpu_functions`. They take and give
            numbers, no strings.

    Raises:
        ValueError: a device function that no signature called.
    """
    archive = keras.export.ExportArchive()
    for resource in resources:
        archive.track(resource)
    for name, (function, inputs) in signatures.items():
        specs = [tf.TensorSpec([None], dtype, key) for key, dtype in inputs.items()]
        archive.add_endpoint(name, function, specs)
    aliases = dict(device_functions or {})
    for alias, function in aliases.items():
        if not function.experimental_get_tracing_count():
            raise ValueError(
                f"device function {alias} was called by no signature: nothing would stand for it"
            )
    options = tf.saved_model.SaveOptions(function_aliases=aliases)
    archive.write_out(str(folder), options, verbose=False)
