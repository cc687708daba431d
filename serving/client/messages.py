"""Protobuf messages from tables of fields: those of Predict here, those of configuration files elsewhere.

The messages of `tensorflow_serving` import TensorFlow, which takes seconds, and it lacks those of some files.

Only the fields that the clients use are declared, with TensorFlow Serving's names and numbers; protobuf keeps
other fields of an answer unread.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PREDICT = "/tensorflow.serving.PredictionService/Predict"

# TensorFlow's DataType.
FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING, INT64, BOOL = 1, 2, 3, 4, 5, 6, 7, 9, 10
UINT32, UINT64 = 22, 23

_Field = descriptor_pb2.FieldDescriptorProto


def declared(
    fields: Mapping[str, Mapping[str, tuple[int, str]]], maps: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Message classes by name.

    Args:
        fields: message -> field -> its number and its type: a name of protobuf, such as `int64`, or that of
            another message of the table, with `repeated ` before it if it is repeated.
        maps: the messages among them that are the entries of a map -> the message that has this map.
    """
    nested = maps or {}
    file = descriptor_pb2.FileDescriptorProto(name="genre.proto", package="genre", syntax="proto3")
    messages = {name: descriptor_pb2.DescriptorProto(name=name) for name in fields}
    for name, own in fields.items():
        for field, (number, kind) in own.items():
            label = _Field.LABEL_REPEATED if kind.startswith("repeated ") else _Field.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            added = messages[name].field.add(name=field, number=number, label=label)
            if kind in fields:
                scope = f"{nested[kind]}." if kind in nested else ""
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".genre.{scope}{kind}"
            else:
                added.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    for name, outer in nested.items():  # protobuf's form of a map
        messages[name].options.map_entry = True
        messages[outer].nested_type.append(messages.pop(name))
    file.message_type.extend(messages.values())
    pool = descriptor_pool.DescriptorPool()  # of its own: TensorFlow's messages may be loaded beside these
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"genre.{name}")) for name in messages}


_PREDICT: dict[str, dict[str, tuple[int, str]]] = {
    "Dim": {"size": (1, "int64")},
    "TensorShapeProto": {"dim": (2, "repeated Dim"), "unknown_rank": (3, "bool")},
    "TensorProto": {
        "dtype": (1, "int32"),  # an enum, which is an int32 on the wire
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "repeated float"),
        "double_val": (6, "repeated double"),
        "int_val": (7, "repeated int32"),
        "string_val": (8, "repeated bytes"),
        "int64_val": (10, "repeated int64"),
        "bool_val": (11, "repeated bool"),
        "uint32_val": (16, "repeated uint32"),
        "uint64_val": (17, "repeated uint64"),
    },
    "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
    "InputsEntry": {"key": (1, "string"), "value": (2, "TensorProto")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "repeated InputsEntry")},
    "OutputsEntry": {"key": (1, "string"), "value": (2, "TensorProto")},
    "PredictResponse": {"outputs": (1, "repeated OutputsEntry"), "model_spec": (2, "ModelSpec")},
}
_messages = declared(_PREDICT, {"InputsEntry": "PredictRequest", "OutputsEntry": "PredictResponse"})
PredictRequest = _messages["PredictRequest"]
PredictResponse = _messages["PredictResponse"]
