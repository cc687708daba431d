"""Write the next version of a SavedModel with other values in a few variables: same graph, no tracing."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.contract import ASSETS_FOLDER
from genre_tf.errors import InputError
from genre_tf.export.attached import attached_keys, open_checkpoint


def copy_graph(version: Path, folder: Path) -> None:
    """Copy a SavedModel without its variables and its `assets.extra`.

    Args:
        version: folder of the SavedModel; it is only read.
        folder: folder to write; may exist if it is empty.
    """
    # TensorFlow's fingerprint would no longer match the files, and nothing needs it.
    left_out = shutil.ignore_patterns("variables", ASSETS_FOLDER, "fingerprint.pb")
    shutil.copytree(version, folder, ignore=left_out, dirs_exist_ok=True)


def write_values(version: Path, folder: Path, module: str, values: Mapping[str, Any]) -> None:
    """Write the variables of a SavedModel again, with other values for an attached module.

    Args:
        version: folder of the SavedModel; it is only read.
        folder: folder to write, with a copy of the graph in it.
        module: name of a module that `write_saved_model` attached.
        values: path of a variable in the module (`titles`, `nearest.blocks`) to its value; the shape may
            differ along an open axis.

    Raises:
        InputError: the version has no such module or variable, or cannot be read.
    """
    try:
        reader = open_checkpoint(version)
        keys = attached_keys(reader, module)
        changed = {keys[name]: value for name, value in values.items()}
        names = sorted(reader.get_variable_to_shape_map())
        tensors = [changed.get(name) if name in changed else reader.get_tensor(name) for name in names]
    except (tf.errors.OpError, ValueError, KeyError) as error:
        raise InputError(f"{version} cannot be refreshed ({error}): export again") from None
    (folder / "variables").mkdir()
    prefix = str(folder / "variables" / "variables")
    whole = [""] * len(names)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=whole, tensors=tensors)
