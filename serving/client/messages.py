"""The messages of Predict, built here: those of `tensorflow_serving` import TensorFlow, which takes seconds.

Only the fields that the clients use are declared, with TensorFlow Serving's names and numbers; protobuf keeps
other fields of an answer unread.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PREDICT = "/tensorflow.serving.PredictionService/Predict"

# TensorFlow's DataType.
FLOAT, DOUBLE, INT32, UINT8, INT16, INT8, STRING, INT64, BOOL = 1, 2, 3, 4, 5, 6, 7, 9, 10
UINT32, UINT64 = 22, 23

_Field = descriptor_pb2.FieldDescriptorProto
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
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
_NESTED = {"InputsEntry": "PredictRequest", "OutputsEntry": "PredictResponse"}  # protobuf's form of a map


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="genre_predict.proto", package="genre", syntax="proto3")
    messages = {name: descriptor_pb2.DescriptorProto(name=name) for name in _FIELDS}
    for name, fields in _FIELDS.items():
        for field, (number, kind) in fields.items():
            _add(messages[name], field, number, kind)
    for name, outer in _NESTED.items():
        messages[name].options.map_entry = True
        messages[outer].nested_type.append(messages.pop(name))
    file.message_type.extend(messages.values())
    return file


def _add(message: descriptor_pb2.DescriptorProto, field: str, number: int, kind: str) -> None:
    label = _Field.LABEL_REPEATED if kind.startswith("repeated ") else _Field.LABEL_OPTIONAL
    kind = kind.removeprefix("repeated ")
    added = message.field.add(name=field, number=number, label=label)
    if kind in _FIELDS:
        scope = f"{_NESTED[kind]}." if kind in _NESTED else ""
        added.type, added.type_name = _Field.TYPE_MESSAGE, f".genre.{scope}{kind}"
    else:
        added.type = _Field.Type.Value(f"TYPE_{kind.upper()}")


# A pool of its own: TensorFlow's messages may be loaded beside these.
_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"genre.{name}"))


PredictRequest = _message("PredictRequest")
PredictResponse = _message("PredictResponse")
