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
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
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
    """One part of a graph that TensorFlow Serving would not accept."""

    subject: str  # the op, function, signature or input
    places: tuple[str, ...]  # where it is used, such as the names of functions
    reason: str  # why it is refused and what to do

    def __str__(self) -> str:
        shown = ", ".join(self.places[:3]) + (" …" if len(self.places) > 3 else "")
        return f"{self.subject} in {shown}: {self.reason}"


@cache
def servable_ops() -> frozenset[str]:
    """Names of the ops in TensorFlow Serving 2.20; the file explains how the list was made."""
    lines = Path(__file__).with_name("serving_2_20_ops.txt").read_text(encoding="ascii").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())


def read_saved_model(version: Path) -> saved_model_pb2.SavedModel:
    """Parse `saved_model.pb`."""
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
    """Check every op of every function of every graph, and every signature; empty if all is well."""
    found: list[Violation] = []
    for graph in read_saved_model(version).meta_graphs:
        library = graph.graph_def.library.function
        functions = {function.signature.name for function in library}
        nodes = [("the main graph", node) for node in graph.graph_def.node]
        nodes += [(function.signature.name, node) for function in library for node in function.node_def]
        places: dict[str, dict[str, None]] = defaultdict(dict)
        for place, node in nodes:
            if node.op not in functions:
                places[node.op][place] = None
        found += [
            Violation(f"op {op}", tuple(places[op]), reason)
            for op in sorted(places)
            if (reason := _refusal(op))
        ]
        compiled = [one.signature.name for one in library if _must_compile(one)]
        compiled += [f"{place}/{node.name}" for place, node in nodes if _must_compile(node)]
        if compiled:
            reason = "must be compiled by XLA, which TensorFlow Serving refuses; remove jit_compile=True"
            found.append(Violation(MUST_COMPILE, tuple(compiled), reason))
        found += _signature_violations(graph)
        if "serve" not in graph.meta_info_def.tags:
            tags = ", ".join(graph.meta_info_def.tags) or "none"
            found.append(
                Violation(f"tags {tags}", ("the graph",), "TensorFlow Serving loads the tag `serve`")
            )
    return found


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


def _must_compile(one: Any) -> bool:
    return MUST_COMPILE in one.attr and bool(one.attr[MUST_COMPILE].b)


def _signature_violations(graph: meta_graph_pb2.MetaGraphDef) -> Iterator[Violation]:
    if DEFAULT_SIGNATURE not in graph.signature_def:
        yield Violation(DEFAULT_SIGNATURE, ("the signatures",), "a default signature is missing")
    for name, signature in sorted(graph.signature_def.items()):
        if name == INITIALIZER:
            continue
        place = (f"signature {name}",)
        for key, tensor in sorted(signature.inputs.items()):
            shape = _shape(tensor)
            if tensor.dtype not in INPUT_TYPES:
                reason = f"dtype {tf.as_dtype(tensor.dtype).name}: inputs must be string or int64"
                yield Violation(f"input {key}", place, reason)
            if shape is None or len(shape) != 1:
                reason = (
                    f"shape {shape or 'scalar or unknown'}: inputs must have rank 1, so that batching pads "
                    "nothing"
                )
                yield Violation(f"input {key}", place, reason)
            elif shape[0] != -1:
                reason = f"batch fixed to {shape[0]}: the batch dimension must be open"
                yield Violation(f"input {key}", place, reason)
        for key, tensor in sorted(signature.outputs.items()):
            shape = _shape(tensor)
            if not shape or shape[0] != -1:
                reason = f"shape {shape or 'scalar or unknown'}: dimension 0 must be the open batch dimension"
                yield Violation(f"output {key}", place, reason)


def _shape(tensor: meta_graph_pb2.TensorInfo) -> list[int] | None:
    shape = tensor.tensor_shape
    return None if shape.unknown_rank else [dim.size for dim in shape.dim]


def missing_assets(version: Path) -> list[str]:
    """Missing files of look-up tables, which TensorFlow reads on loading, in words."""
    graphs = read_saved_model(version).meta_graphs
    names = sorted({asset.filename for graph in graphs for asset in graph.asset_file_def})
    return [f"assets/{name} is missing" for name in names if not (version / "assets" / name).is_file()]
