"""Write a SavedModel that TensorFlow Serving can serve, read a part of it back, and give it other values.

Use `keras.export.ExportArchive`, never `tf.saved_model.save`: a Keras 3 model saved with the latter loads on
TensorFlow Serving and then fails every request (BUILD_NOTES.md, Fact 2).
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from genre_tf.contract import ASSETS_FOLDER, DEFAULT_SIGNATURE, EXAMPLES_INPUT, SIGNATURES
from genre_tf.errors import InputError
from genre_tf.export.gate import read_saved_model
from genre_tf.export.publishing import read_as_pattern

REGRESS_METHOD = "tensorflow/serving/regress"

InputTypes = Mapping[str, Any]

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"


def write_saved_model(
    folder: Path,
    resources: Sequence[Any],
    signatures: Mapping[str, tuple[Callable[..., Any], InputTypes]],
    attached: Mapping[str, tf.Module] | None = None,
    aliases: Mapping[str, Any] | None = None,
) -> None:
    """Write signatures and everything that they use.

    Args:
        folder: folder to write; may exist if it is empty.
        resources: objects with look-up tables; variables need not be listed.
        signatures: name to a function of tensors [B] that returns {output: tensor [B, …]}, and the dtypes of
            its inputs. The first is the default. A signature whose only input is `inputs` belongs to the
            Regress API.
        attached: modules that can be read back under these names, with their variables and functions. A
            signature must also read every variable and table that their functions read.
        aliases: functions that signatures call, by the names under which a converter for other devices finds
            them in the graph (`function_aliases`).
    """
    import keras  # here, because it takes 1.5 seconds to import and a refresh does not need it

    archive = keras.export.ExportArchive()
    for resource in resources:
        archive.track(resource)
    for name, (function, inputs) in signatures.items():
        specs = [tf.TensorSpec([None], dtype, key) for key, dtype in inputs.items()]
        # As `add_endpoint`, with the traced function: saving would trace any other function a second time.
        concrete = tf.function(function, specs, autograph=False).get_concrete_function()
        setattr(archive._tf_trackable, name, concrete)
        archive._endpoint_signatures[name] = specs
        archive._endpoint_names.append(name)
    for name, module in (attached or {}).items():
        # Keras stores only variables and tables of what it tracks; this also stores names and functions.
        setattr(archive._tf_trackable, name, module)
    options = tf.saved_model.SaveOptions(function_aliases=dict(aliases or {}))
    archive.write_out(str(folder), options=options, verbose=False)
    model = read_saved_model(folder)
    definitions = model.meta_graphs[0].signature_def
    for name, (_, inputs) in signatures.items():
        if set(inputs) == {EXAMPLES_INPUT}:
            # Keras marks all signatures as Predict. TFX's InfraValidator chooses the API by this name, and
            # TensorFlow Serving checks it if `--enable_signature_method_name_check` is set.
            definitions[name].method_name = REGRESS_METHOD
    # Keras writes the graph of the default twice: a server would optimize it and warm it up twice.
    definitions[DEFAULT_SIGNATURE].CopyFrom(definitions[next(iter(signatures))])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString(deterministic=True))


def write_servable(folder: Path, servable: str, functions: Any, *parts: Any, **more: Any) -> None:
    """Write the SavedModel of one of our servables.

    `functions` has a method for each of its signatures; the other arguments are those of `write_saved_model`.
    """
    signatures = {
        one.name: (getattr(functions, one.name), {of.name: tf.as_dtype(of.dtype) for of in one.inputs})
        for one in SIGNATURES[servable].values()
    }
    write_saved_model(folder, parts, signatures, **more)


def load_attached(version: Path, name: str, without: Collection[str] = ()) -> Any:
    """Load one attached module of a SavedModel with its functions, and only the variables that they read.

    `tf.saved_model.load` would create every function of every signature again, and a variable for each value.
    For a recommender with 50,000 articles this takes three seconds and twice the memory of its index.
    Functions and submodules named in `without` are not loaded. A KeyError means that there is no such module.
    """
    model = read_saved_model(version)
    nodes = _keep_module(model.meta_graphs[0], name, without)
    # Beside the version, whose path was checked, if TensorFlow cannot load from the usual place.
    place = version.parent.resolve() if read_as_pattern(tempfile.gettempdir()) else None
    with tempfile.TemporaryDirectory(prefix=".reading-", dir=place) as scratch:
        for part in ("variables", "assets"):
            (Path(scratch) / part).symlink_to((version / part).resolve())
        (Path(scratch) / "saved_model.pb").write_bytes(model.SerializeToString())
        module, *needed = tf.__internal__.saved_model.load_partial(scratch, nodes).values()
    module.needed = needed  # functions do not keep their variables alive
    return module


def _keep_module(graph: Any, name: str, without: Collection[str]) -> list[str]:
    """Remove all functions from a MetaGraphDef that a module does not need; returns the nodes to load."""
    objects = graph.object_graph_def
    root, module = objects.nodes[0], _child(objects.nodes[0], name)
    children = objects.nodes[module.node_id].children
    for place in reversed([place for place, one in enumerate(children) if one.local_name in without]):
        del children[place]
    kept, functions = _reachable(objects, module.node_id)
    for function in set(objects.concrete_functions) - functions:
        del objects.concrete_functions[function]
    library = graph.graph_def.library.function
    called = _called({function.signature.name: function for function in library}, functions)
    for place in reversed([place for place, one in enumerate(library) if one.signature.name not in called]):
        del library[place]
    # Keras' archive keeps variables and tables in lists of its own, under the root.
    return [f"root.{name}"] + [
        f"root.{holder.local_name}.{one.local_name}"
        for holder in root.children
        for one in objects.nodes[holder.node_id].children
        if one.node_id in kept and holder.node_id != module.node_id
    ]


def _reachable(objects: Any, start: int) -> tuple[set[int], set[str]]:
    """What an object of a SavedObjectGraph needs: numbers of objects, names of functions."""
    kept: set[int] = set()
    functions: set[str] = set()
    waiting = [start]
    while waiting:
        number = waiting.pop()
        if number in kept:
            continue
        kept.add(number)
        node = objects.nodes[number]
        waiting += [child.node_id for child in (*node.children, *node.dependencies)]
        for pair in node.saveable_objects.values():
            waiting += [pair.save_function, pair.restore_function]
        names = [*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name]
        for name in filter(None, names):
            functions.add(name)
            waiting += objects.concrete_functions[name].bound_inputs
    return kept, functions


def _called(library: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Names of functions and of all functions that they call, directly or indirectly."""
    called: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in library and name not in called:
            called.add(name)
            for attribute in (one for node in library[name].node_def for one in node.attr.values()):
                waiting += [attribute.func.name, *(listed.name for listed in attribute.list.func)]
    return called


def attached_values(version: Path, name: str) -> dict[str, Any]:
    """Values of an attached module's variables, by their paths (`titles`, `nearest.blocks`)."""
    reader = _open_checkpoint(version)
    return {path: reader.get_tensor(key) for path, key in _attached_keys(reader, name).items()}


def copy_graph(version: Path, folder: Path) -> None:
    """Copy a SavedModel without its variables and its `assets.extra` into an empty folder."""
    # TensorFlow's fingerprint would no longer match the files, and nothing needs it.
    left_out = shutil.ignore_patterns("variables", ASSETS_FOLDER, "fingerprint.pb")
    shutil.copytree(version, folder, ignore=left_out, dirs_exist_ok=True)


def write_values(version: Path, folder: Path, module: str, values: Mapping[str, Any]) -> None:
    """Write the variables of a SavedModel into a copy of its graph, with other values for an attached module.

    The values are by path (`titles`, `nearest.blocks`); their shapes may differ along an open axis.
    """
    try:
        reader = _open_checkpoint(version)
        keys = _attached_keys(reader, module)
        changed = {keys[name]: value for name, value in values.items()}
        names = sorted(reader.get_variable_to_shape_map())
        tensors = [changed.get(name) if name in changed else reader.get_tensor(name) for name in names]
    except (tf.errors.OpError, ValueError, KeyError) as error:
        raise InputError(f"{version} cannot be refreshed ({error}): export again") from None
    (folder / "variables").mkdir()
    prefix = str(folder / "variables" / "variables")
    whole = [""] * len(names)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=whole, tensors=tensors)


def _open_checkpoint(version: Path) -> Any:
    return tf.train.load_checkpoint(str(version / "variables" / "variables"))


def _attached_keys(reader: Any, name: str) -> dict[str, str]:
    """Checkpoint keys of a module's variables, by their paths in the module."""
    nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(reader.get_tensor(_GRAPH_KEY)).nodes
    keys: dict[str, str] = {}

    def visit(number: int, path: str) -> None:
        for child in nodes[number].children:
            node = nodes[child.node_id]
            if node.attributes:
                keys[path + child.local_name] = node.attributes[0].checkpoint_key
            else:
                visit(child.node_id, f"{path}{child.local_name}.")

    visit(_child(nodes[0], name).node_id, "")
    return keys


def _child(node: Any, name: str) -> Any:
    for child in node.children:
        if child.local_name == name:
            return child
    raise KeyError(name)
