"""The next version of a SavedModel with other values in a few of its variables: same graph, no tracing."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from genre_tf.errors import InputError

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"


def copy_with_values(version: Path, folder: Path, module: str, values: Mapping[str, Any]) -> None:
    """Copy a SavedModel, but for its `assets.extra`, and give variables of an attached module other values.

    Args:
        version: folder of the SavedModel; it is only read.
        folder: where to; may exist and be empty.
        module: name of a module that `write_saved_model` attached.
        values: path of a variable in the module (`titles`, `nearest.blocks`) to its value; the shape may
            differ along an open axis.

    Raises:
        InputError: the version has no such module or variable, or cannot be read.
    """
    # TensorFlow's fingerprint is of these very files, and nobody misses it.
    left_out = shutil.ignore_patterns("variables", "assets.extra", "fingerprint.pb")
    shutil.copytree(version, folder, ignore=left_out, dirs_exist_ok=True)
    try:
        reader = tf.train.load_checkpoint(str(version / "variables" / "variables"))
        keys = _keys_of(reader.get_tensor(_GRAPH_KEY), module)
        changed = {keys[name]: value for name, value in values.items()}
        names = sorted(reader.get_variable_to_shape_map())
        tensors = [changed.get(name) if name in changed else reader.get_tensor(name) for name in names]
    except (tf.errors.OpError, ValueError, KeyError) as error:
        raise InputError(f"{version} cannot be refreshed ({error}): export again") from None
    (folder / "variables").mkdir()
    prefix = str(folder / "variables" / "variables")
    whole = [""] * len(names)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=whole, tensors=tensors)


def _keys_of(serialized: bytes, module: str) -> dict[str, str]:
    """Keys in the checkpoint of a module's variables, by their paths in the module."""
    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(serialized).nodes
    keys: dict[str, str] = {}

    def visit(number: int, path: str) -> None:
        for child in nodes[number].children:
            node = nodes[child.node_id]
            if node.attributes:
                keys[path + child.local_name] = node.attributes[0].checkpoint_key
            else:
                visit(child.node_id, f"{path}{child.local_name}.")

    (root,) = (child.node_id for child in nodes[0].children if child.local_name == module)
    visit(root, "")
    return keys
