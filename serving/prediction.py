"""Predict: named tensors in, named tensors out, with TensorFlow Serving's checks in the same order.

Follows predict_util.cc of TensorFlow Serving.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2

from genre_tf.contract import DEFAULT_SIGNATURE
from genre_tf.serving.servable import Servable
from genre_tf.serving.statuses import ServingError, invalid_argument
from genre_tf.serving.tensors import to_array, write_proto


def answer_predict(servable: Servable, request: Any) -> Any:
    """Answer a PredictRequest with a PredictResponse.

    Raises:
        ServingError: unknown signature, inputs that do not match it, or an error of the graph.
    """
    signature = predict_signature(servable, request.model_spec.signature_name)
    inputs = read_inputs(signature, request.inputs)
    outputs = predict(servable, signature, inputs, list(request.output_filter))
    response = predict_pb2.PredictResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    for name, value in outputs.items():
        write_proto(value, response.outputs[name])
    return response


def predict_signature(servable: Servable, name: str) -> Any:
    """Return the SignatureDef that a Predict request names.

    Raises:
        ServingError: the servable has no signature of that name.
    """
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    return servable.signatures[name]


def read_inputs(signature: Any, protos: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert the inputs of a gRPC request to arrays.

    Args:
        signature: SignatureDef of the request.
        protos: input name -> TensorProto.

    Returns:
        Input name -> array; missing inputs have the signature's default.

    Raises:
        ServingError: an input is missing or unknown, or a tensor cannot be read.
    """
    check_names(signature, protos)
    arrays = {}
    for name in signature.inputs:
        try:
            arrays[name] = to_array(protos[name] if name in protos else signature.defaults[name])
        except ValueError as error:
            raise invalid_argument(f"tensor parsing error: {name}") from error
    return arrays


def check_names(signature: Any, given: Collection[str]) -> None:
    """Check that the inputs of a request are those of the signature.

    Raises:
        ServingError: an input is unknown, or missing and without a default.
    """
    expected = signature.inputs
    if len(given) > len(expected) or (len(given) < len(expected) and not signature.defaults):
        extra, missing = set(given) - set(expected), set(expected) - set(given)
        raise invalid_argument(
            f"input size does not match signature: {len(given)}!={len(expected)} len({_names(given)}) != "
            f"len({_names(expected)}). Sent extra: {_names(extra)}. Missing but required: {_names(missing)}."
        )
    for name in expected:
        if name not in given and name not in signature.defaults:
            raise invalid_argument(
                f"Signature input alias: {name}(feed name: {expected[name].name}) not found in request "
                f"and no default value provided. Inputs expected to be in the request {_names(given)}, or "
                f"default input alias set: {','.join(sorted(signature.defaults))}"
            )


def predict(
    servable: Servable, signature: Any, inputs: Mapping[str, np.ndarray], output_filter: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Run one signature.

    Args:
        servable: version that answers.
        signature: one of its SignatureDefs.
        inputs: input name -> array, for every input.
        output_filter: names of the outputs to compute; all outputs if empty.

    Returns:
        Output name -> array.

    Raises:
        ServingError: the filter names an unknown output or one output twice, or an error of the graph.
    """
    for position, name in enumerate(output_filter):
        if name not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_names(signature.outputs)}."
            )
        if name in output_filter[:position]:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
    wanted = list(output_filter) or sorted(signature.outputs)
    feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
    values = servable.run(feeds, [signature.outputs[name].name for name in wanted], "Predict")
    return dict(zip(wanted, values, strict=True))


def _names(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
