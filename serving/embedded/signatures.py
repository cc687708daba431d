"""The APIs of a version: Predict, with named tensors, and Regress, with serialized tf.Examples.

Checks and codes are TensorFlow Serving's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2, regression_pb2

from genre_tf.serving.client.tensors import to_array, write_proto
from genre_tf.serving.embedded.errors import ServingError, invalid_argument
from genre_tf.serving.embedded.servable import Servable

DEFAULT_SIGNATURE = "serving_default"


def answer_predict(servable: Servable, request: Any) -> Any:
    """Answer a PredictRequest with a PredictResponse.

    Raises:
        ServingError: unknown signature, inputs that do not match it, or an error of the graph.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, _no_signature(servable, name))
    inputs = {given: _read(given, proto) for given, proto in request.inputs.items()}
    outputs = predict(servable, signature, inputs, list(request.output_filter))
    response = predict_pb2.PredictResponse()
    _write_spec(response.model_spec, servable, name)
    for output, value in outputs.items():
        write_proto(value, response.outputs[output])
    return response


def predict(
    servable: Servable, signature: Any, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Run one signature.

    Args:
        servable: version that answers.
        signature: one of its SignatureDefs.
        inputs: input name -> array; a missing one has the signature's default, if there is one.
        output_filter: names of the outputs to compute; all outputs if empty.

    Returns:
        Output name -> array.

    Raises:
        ServingError: an input is unknown or missing, the filter names an unknown output or one output twice,
            or an error of the graph.
    """
    inputs = {name: _read(name, proto) for name, proto in signature.defaults.items()} | dict(inputs)
    if inputs.keys() != signature.inputs.keys():
        raise invalid_argument(
            f"the inputs of this signature are {_names(signature.inputs)}; got {_names(inputs)}"
        )
    if len(set(output_filter)) < len(output_filter) or not set(output_filter) <= set(signature.outputs):
        raise invalid_argument(
            f"output_filter must name outputs of {_names(signature.outputs)}, each once; got {output_filter}"
        )
    wanted = list(output_filter) or sorted(signature.outputs)
    feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
    values = servable.run(feeds, [signature.outputs[name].name for name in wanted], "Predict")
    return dict(zip(wanted, values, strict=True))


def answer_regress(servable: Servable, request: Any) -> Any:
    """Answer a RegressionRequest with a RegressionResponse: one number for each tf.Example.

    Raises:
        ServingError: the signature is missing or not of Regress, there are no examples, or an error of the
            graph.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(_no_signature(servable, name))
    if list(signature.inputs) != ["inputs"] or list(signature.outputs) != ["outputs"]:
        raise invalid_argument(
            f"a signature of Regress has the input `inputs` and the output `outputs`; {name!r} has "
            f"{_names(signature.inputs)} and {_names(signature.outputs)}"
        )
    given = request.input.example_list_with_context
    context = given.context.SerializeToString()  # part of every example: messages are merged by joining them
    examples = [*given.examples, *request.input.example_list.examples]
    if not examples:
        raise invalid_argument("the request has no examples")
    rows = np.array([context + example.SerializeToString() for example in examples], object)  # [batch]
    feeds = {signature.inputs["inputs"].name: rows}
    (values,) = servable.run(feeds, [signature.outputs["outputs"].name], "Regress")
    if values.shape not in ((len(rows),), (len(rows), 1)) or values.dtype != np.float32:
        raise invalid_argument(
            f"signature {name!r} must answer {len(rows)} examples with as many float32 numbers; it answered "
            f"{values.dtype.name} {list(values.shape)}"
        )
    response = regression_pb2.RegressionResponse()
    _write_spec(response.model_spec, servable, name)
    for value in values.ravel().tolist():
        response.result.regressions.add(value=value)
    return response


def _read(name: str, proto: Any) -> np.ndarray:
    try:
        return to_array(proto)
    except ValueError as error:
        raise invalid_argument(f"input {name} is not a valid tensor: {error}") from error


def _write_spec(spec: Any, servable: Servable, signature_name: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature_name


def _no_signature(servable: Servable, name: str) -> str:
    return f"model {servable.name} has no signature {name!r}; it has {_names(servable.signatures)}"


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
