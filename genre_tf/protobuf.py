"""Protobuf messages from tables of fields: those that no package has, or none without TensorFlow."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto


def declared(fields: Mapping[str, Mapping[str, tuple[int, str]]]) -> dict[str, Any]:
    """Message classes by name, from message -> field -> its number and its type.

    A type is a name of protobuf, such as `int64`, or that of another message of the table; before it may
    stand `repeated ` or, for a map from strings, `map `.
    """
    file = descriptor_pb2.FileDescriptorProto(name="genre.proto", package="genre", syntax="proto3")
    for name, own in fields.items():
        message = file.message_type.add(name=name)
        for field, (number, given) in own.items():
            many, _, kind = given.rpartition(" ")
            label = _Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if many == "map":  # in protobuf a repeated entry of its own
                entry = message.nested_type.add(name=f"{field.title()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=_Field.TYPE_STRING)
                value = entry.field.add(name="value", number=2, label=1, type=_Field.TYPE_MESSAGE)
                value.type_name = f".genre.{kind}"
                kind = f"{name}.{entry.name}"
            if many == "map" or kind in fields:
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".genre.{kind}"
            else:
                added.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()  # of its own: TensorFlow's messages may be loaded beside these
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"genre.{name}")) for name in fields}
