"""Predict: named tensors in, named tensors out, with TensorFlow Serving's checks in its order.

Follows predict_util.cc of TensorFlow Serving.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import predict_pb2

from genre_tf.serving.servable import Servable
from genre_tf.serving.statuses import ServingError, invalid_argument
from genre_tf.serving.tensors import to_array, write_proto

DEFAULT_SIGNATURE = "serving_default"


def answer_predict(servable: Servable, request: Any) -> Any:
    """The PredictResponse to a PredictRequest.

    Raises:
        ServingError: no such signature, inputs that are not its own, or the graph refused.
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
    """The SignatureDef that a Predict request names.

    Raises:
        ServingError: there is none of that name.
    """
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    return servable.signatures[name]


def read_inputs(signature: Any, protos: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a gRPC request.

    Args:
        signature: SignatureDef.
        protos: input name -> TensorProto.

    Raises:
        ServingError: a name is missing or too many, or a tensor cannot be read.
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
    """See that the inputs of a request are those of the signature.

    Raises:
        ServingError: they are not.
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
        servable: the version that answers.
        signature: one of its SignatureDefs.
        inputs: input name -> value, complete.
        output_filter: the outputs to compute; all where empty.

    Returns:
        Output name -> value.

    Raises:
        ServingError: the filter names what is not there, or the graph refused.
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
