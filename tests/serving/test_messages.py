"""The clients' own messages are TensorFlow Serving's, field by field and on the wire."""

from typing import Any

import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2

from genre_tf.serving.client import messages
from genre_tf.serving.client.messages import to_array, write_proto


def check_fields(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        twin = theirs.fields_by_name[field.name]
        assert (field.number, field.is_repeated) == (twin.number, twin.is_repeated)
        if field.name == "dtype":
            assert twin.enum_type is not None
        else:
            assert field.type == twin.type
        if field.message_type is not None:
            check_fields(field.message_type, twin.message_type)


@pytest.mark.parametrize("name", ["PredictRequest", "PredictResponse"])
def test_fields_have_tensorflow_servings_names_numbers_and_types(name: str) -> None:
    check_fields(getattr(messages, name).DESCRIPTOR, getattr(predict_pb2, name).DESCRIPTOR)


def test_types_have_tensorflows_numbers() -> None:
    from tensorflow.core.framework import types_pb2

    names = [name for name in vars(messages) if f"DT_{name}" in types_pb2.DataType.DESCRIPTOR.values_by_name]
    assert len(names) == 11
    for name in names:
        assert getattr(messages, name) == types_pb2.DataType.Value(f"DT_{name}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", "uint8", "float16", "complex64"])
def test_arrays_reach_tensorflow_serving_and_come_back(dtype: str) -> None:
    array = np.array([[0, 1], [2, 3]]).astype(dtype)
    request = messages.PredictRequest()
    write_proto(array, request.inputs["x"])
    theirs = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    np.testing.assert_array_equal(to_array(theirs.inputs["x"]), array)
    response = predict_pb2.PredictResponse()
    write_proto(array, response.outputs["y"])
    ours = messages.PredictResponse.FromString(response.SerializeToString())
    found = to_array(ours.outputs["y"])
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
