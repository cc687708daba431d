"""The portability gate: checks whether TensorFlow Serving can run a SavedModel on any machine.

It reads the graph and does not run it, because a graph with a wrong op *loads* on TensorFlow Serving and then
fails each request (BUILD_NOTES.md, Facts 2 and 3).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import node_def_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from genre_tf.contract import DEFAULT_SIGNATURE
from genre_tf.errors import InputError

PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
GROWING_TABLE = re.compile(r"LookupTableInsertV2|(Anonymous)?Mutable(Dense)?HashTable(OfTensors)?(V2)?")
INPUT_TYPES = (types_pb2.DT_STRING, types_pb2.DT_INT64)
MUST_COMPILE = "_XlaMustCompile"
INITIALIZER = "__saved_model_init_op"  # TensorFlow's own: runs on loading, has no inputs and no real outputs


@dataclass(frozen=True, slots=True)
class Violation:
    """One part of a graph that TensorFlow Serving would not accept.

    Attributes:
        subject: the op, function, signature or input.
        places: where it is used, such as the names of functions.
        reason: why it is refused and what to do.
    """

    subject: str
    places: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        shown = ", ".join(self.places[:3]) + (" …" if len(self.places) > 3 else "")
        return f"{self.subject} in {shown}: {self.reason}"


@cache
def servable_ops() -> frozenset[str]:
    """Names of the ops in TensorFlow Serving 2.20; the file explains how the list was made."""
    lines = Path(__file__).with_name("serving_2_20_ops.txt").read_text(encoding="ascii").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())


def read_saved_model(version: Path) -> saved_model_pb2.SavedModel:
    """Parse `saved_model.pb`.

    Raises:
        InputError: the file is missing, or it cannot be parsed.
    """
    file = version / "saved_model.pb"
    if not file.is_file():
        raise InputError(f"no SavedModel in {version} (saved_model.pb is missing): export again")
    try:
        model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except DecodeError:
        raise InputError(f"{file} is damaged (not a SavedModel protobuf): export again") from None
    if not model.meta_graphs:
        raise InputError(f"{file} is empty (no graph in it): export again")
    return model


def portability_violations(version: Path) -> list[Violation]:
    """Check every op of every function of every graph, and every signature; empty if all is well.

    Raises:
        InputError: the folder has no readable SavedModel.
    """
    found: list[Violation] = []
    for graph in read_saved_model(version).meta_graphs:
        found += _op_violations(graph)
        found += _compile_violations(graph)
        found += _signature_violations(graph)
        if "serve" not in graph.meta_info_def.tags:
            tags = ", ".join(graph.meta_info_def.tags) or "none"
            found.append(
                Violation(f"tags {tags}", ("the graph",), "TensorFlow Serving loads the tag `serve`")
            )
    return found


def missing_assets(version: Path) -> list[str]:
    """Missing files of look-up tables, which TensorFlow reads on loading, in words."""
    graphs = read_saved_model(version).meta_graphs
    names = sorted({asset.filename for graph in graphs for asset in graph.asset_file_def})
    return [f"assets/{name} is missing" for name in names if not (version / "assets" / name).is_file()]


def _nodes(graph: meta_graph_pb2.MetaGraphDef) -> Iterator[tuple[str, node_def_pb2.NodeDef]]:
    for node in graph.graph_def.node:
        yield "the main graph", node
    for function in graph.graph_def.library.function:
        for node in function.node_def:
            yield function.signature.name, node


def _op_violations(graph: meta_graph_pb2.MetaGraphDef) -> list[Violation]:
    functions = {function.signature.name for function in graph.graph_def.library.function}
    places: dict[str, dict[str, None]] = defaultdict(dict)
    for place, node in _nodes(graph):
        if node.op not in functions:
            places[node.op][place] = None
    reasons = {op: _refusal(op) for op in places}
    return [
        Violation(f"op {op}", tuple(places[op]), reason) for op, reason in sorted(reasons.items()) if reason
    ]


def _refusal(op: str) -> str:
    if op.startswith("Xla"):
        return "XLA op: TensorFlow Serving fails each request that runs it; use portable ops"
    if op in PYTHON_OPS:
        return "calls Python, which a server does not have; use TensorFlow ops"
    if GROWING_TABLE.fullmatch(op):
        return "a table that grows with the traffic; use a read-only table"
    if op not in servable_ops():
        return "not an op of TensorFlow or TensorFlow Text in TensorFlow Serving 2.20"
    return ""


def _compile_violations(graph: meta_graph_pb2.MetaGraphDef) -> list[Violation]:
    reason = "must be compiled by XLA, which TensorFlow Serving refuses; remove jit_compile=True"
    places = [
        function.signature.name
        for function in graph.graph_def.library.function
        if MUST_COMPILE in function.attr and function.attr[MUST_COMPILE].b
    ]
    places += [
        f"{place}/{node.name}"
        for place, node in _nodes(graph)
        if MUST_COMPILE in node.attr and node.attr[MUST_COMPILE].b
    ]
    return [Violation(MUST_COMPILE, tuple(places), reason)] if places else []


def _signature_violations(graph: meta_graph_pb2.MetaGraphDef) -> list[Violation]:
    found = []
    if DEFAULT_SIGNATURE not in graph.signature_def:
        found.append(Violation(DEFAULT_SIGNATURE, ("the signatures",), "a default signature is missing"))
    for name, signature in sorted(graph.signature_def.items()):
        if name == INITIALIZER:
            continue
        for key, tensor in sorted(signature.inputs.items()):
            for reason in _input_faults(tensor):
                found.append(Violation(f"input {key}", (f"signature {name}",), reason))
        for key, tensor in sorted(signature.outputs.items()):
            dims = [dim.size for dim in tensor.tensor_shape.dim]
            if tensor.tensor_shape.unknown_rank or not dims or dims[0] != -1:
                reason = f"shape {dims or 'scalar or unknown'}: dimension 0 must be the open batch dimension"
                found.append(Violation(f"output {key}", (f"signature {name}",), reason))
    return found


def _input_faults(tensor: meta_graph_pb2.TensorInfo) -> Iterator[str]:
    if tensor.dtype not in INPUT_TYPES:
        yield f"dtype {tf.as_dtype(tensor.dtype).name}: inputs must be string or int64"
    dims = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or len(dims) != 1:
        yield f"shape {dims or 'scalar or unknown'}: inputs must have rank 1, so that batching pads nothing"
    elif dims[0] != -1:
        yield f"batch fixed to {dims[0]}: the batch dimension must be open"
