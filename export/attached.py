"""Read back a module that `write_saved_model` attached: its functions, or the values of its variables.

`tf.saved_model.load` would create every function of every signature again, and a variable for each value. For
a recommender with 50,000 articles this takes three seconds and twice the memory of its index.
"""

import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from genre_tf.export.gate import read_saved_model
from genre_tf.export.publishing import read_as_pattern

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VARIABLES = "_all_variables"  # the node in which Keras' archive keeps all variables


def load_attached(version: Path, name: str, without: Collection[str] = ()) -> Any:
    """Load one module of a SavedModel with its functions, and only the variables that they read.

    Args:
        version: folder of the SavedModel.
        name: name of the module.
        without: names of functions and submodules of the module that are not loaded.

    Returns:
        An object with the module as an attribute; the variables exist as long as the object.

    Raises:
        KeyError: the version has no such module.
        Exception: any error that TensorFlow raises if the version does not load.
    """
    model = read_saved_model(version)
    _keep_module(model.meta_graphs[0], name, without)
    # Beside the version, whose path was checked, if TensorFlow cannot load from the usual place.
    place = version.parent.resolve() if read_as_pattern(tempfile.gettempdir()) else None
    with tempfile.TemporaryDirectory(prefix=".reading-", dir=place) as scratch:
        for part in ("variables", "assets"):
            (Path(scratch) / part).symlink_to((version / part).resolve())
        (Path(scratch) / "saved_model.pb").write_bytes(model.SerializeToString())
        return tf.saved_model.load(scratch)


def attached_values(version: Path, name: str) -> dict[str, Any]:
    """Values of a module's variables as NumPy arrays, by their paths in it (`titles`, `nearest.blocks`).

    Args:
        version: folder of a SavedModel.
        name: name of the module.

    Raises:
        KeyError: the version has no such module.
        OpError, ValueError: the variables cannot be read.
    """
    reader = open_checkpoint(version)
    return {path: reader.get_tensor(key) for path, key in attached_keys(reader, name).items()}


def open_checkpoint(version: Path) -> Any:
    """A checkpoint reader for a SavedModel's variables."""
    return tf.train.load_checkpoint(str(version / "variables" / "variables"))


def attached_keys(reader: Any, name: str) -> dict[str, str]:
    """Checkpoint keys of a module's variables, by their paths in the module.

    Raises:
        KeyError: there is no such module.
    """
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


def _keep_module(graph: Any, name: str, without: Collection[str]) -> None:
    """Remove everything from a MetaGraphDef that a module does not need; object numbers do not change."""
    objects = graph.object_graph_def
    root = objects.nodes[0]
    module, variables = _child(root, name), _child(root, _VARIABLES)
    children = objects.nodes[module.node_id].children
    _set(children, [child for child in children if child.local_name not in without])
    kept, functions = _reachable(objects, module.node_id)
    holder = objects.nodes[variables.node_id]
    needed = _copies(child for child in holder.children if child.node_id in kept)
    for number, node in enumerate(objects.nodes):
        if number == 0:
            _set(root.children, (module, variables))
        elif number not in kept:
            node.Clear()
            node.user_object.identifier = "_generic_user_object"
            node.user_object.version.producer = node.user_object.version.min_consumer = 1
    holder.children.extend(needed)
    for function in set(objects.concrete_functions) - functions:
        del objects.concrete_functions[function]
    library = {function.signature.name: function for function in graph.graph_def.library.function}
    called = _called(library, functions)
    _set(graph.graph_def.library.function, (library[function] for function in called))


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


def _called(library: dict[str, Any], names: Iterable[str]) -> set[str]:
    """Names of functions and of all functions that they call, directly or indirectly."""
    called: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in library and name not in called:
            called.add(name)
            waiting += _calls(library[name])
    return called


def _calls(function: Any) -> Iterator[str]:
    for node in function.node_def:
        for attribute in node.attr.values():
            yield attribute.func.name
            yield from (listed.name for listed in attribute.list.func)


def _child(node: Any, name: str) -> Any:
    for child in node.children:
        if child.local_name == name:
            return child
    raise KeyError(name)


def _set(field: Any, messages: Iterable[Any]) -> None:
    """Replace the messages of a repeated field; the new ones may come from the field itself."""
    copies = _copies(messages)
    del field[:]
    field.extend(copies)


def _copies(messages: Iterable[Any]) -> list[Any]:
    return [type(message).FromString(message.SerializeToString()) for message in messages]
