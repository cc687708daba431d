"""Regress, Classify and MultiInference: serialized tf.Examples in, typed results out.

Follows regressor.cc, classifier.cc and multi_inference.cc of TensorFlow Serving.
"""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from genre_tf.contract import DEFAULT_SIGNATURE
from genre_tf.serving.servable import Servable
from genre_tf.serving.statuses import ServingError, invalid_argument

REGRESS = "tensorflow/serving/regress"
CLASSIFY = "tensorflow/serving/classify"


def regress(servable: Servable, request: Any) -> Any:
    """The RegressionResponse to a RegressionRequest.

    Raises:
        ServingError: the signature is missing or does not fit, there are no examples, or the graph failed.
    """
    signature = _found(servable, request)
    _check_regression(signature)
    response = regression_pb2.RegressionResponse()
    _write_spec(response.model_spec, servable, request.model_spec.signature_name)
    outputs = _run(servable, [signature], request.input, "Regress")
    _write_regressions(response.result, signature, outputs, _count(request.input))
    return response


def classify(servable: Servable, request: Any) -> Any:
    """The ClassificationResponse to a ClassificationRequest.

    Raises:
        ServingError: the signature is missing or does not fit, there are no examples, or the graph failed.
    """
    signature = _found(servable, request)
    _check_classification(signature)
    response = classification_pb2.ClassificationResponse()
    _write_spec(response.model_spec, servable, request.model_spec.signature_name)
    outputs = _run(servable, [signature], request.input, "Classify")
    _write_classifications(response.result, signature, outputs, _count(request.input))
    return response


def multi_inference(servable: Servable, request: Any) -> Any:
    """The MultiInferenceResponse to a MultiInferenceRequest: several tasks, one run of the graph.

    Raises:
        ServingError: the tasks cannot be combined, or one of them alone would raise it.
    """
    signatures: dict[str, Any] = {}
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != servable.name:
            raise invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        if name in signatures:
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        if name not in servable.signatures:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        signatures[name] = servable.signatures[name]
        _check_task(task.method_name)(signatures[name])
    outputs = _run(servable, list(signatures.values()), request.input)
    response = inference_pb2.MultiInferenceResponse()
    for task, signature in zip(request.tasks, signatures.values(), strict=True):
        result = response.results.add()
        _write_spec(result.model_spec, servable, task.model_spec.signature_name)
        if task.method_name == REGRESS:
            _write_regressions(result.regression_result, signature, outputs, _count(request.input))
        else:
            _write_classifications(result.classification_result, signature, outputs, _count(request.input))
    return response


def _found(servable: Servable, request: Any) -> Any:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return servable.signatures[name]


def _check_task(method: str) -> Callable[[Any], None]:
    if method == REGRESS:
        return _check_regression
    if method == CLASSIFY:
        return _check_classification
    raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")


def _check_regression(signature: Any) -> None:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid_argument(f"No regression inputs found in SignatureDef: {_quoted(signature)}")
    if "outputs" not in signature.outputs:
        raise invalid_argument(f"No regression outputs found in SignatureDef: {_quoted(signature)}")


def _check_classification(signature: Any) -> None:
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise invalid_argument(f"No classification inputs found in SignatureDef: {_quoted(signature)}")
    if not {"classes", "scores"} & set(signature.outputs):
        raise invalid_argument(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {_quoted(signature)}"
        )


def _quoted(signature: Any) -> str:
    # protobuf's C++ DebugString begins with this mark, to keep programs from parsing it.
    return f"goo.gle/debugstr   \n{signature}"


def _count(examples: Any) -> int:
    return len(_serialized(examples))


def _serialized(examples: Any) -> list[bytes]:
    """The serialized examples of an Input; a context is merged into each by concatenating both messages."""
    kind = examples.WhichOneof("kind")
    if kind == "example_list_with_context":
        listed = examples.example_list_with_context
        context = listed.context.SerializeToString()
        rows = [context + example.SerializeToString() for example in listed.examples]
    else:
        rows = [example.SerializeToString() for example in examples.example_list.examples]
    if not rows:
        raise invalid_argument("Input is empty.")
    return rows


def _run(servable: Servable, signatures: list[Any], examples: Any, api: str = "") -> dict[str, np.ndarray]:
    rows = np.array(_serialized(examples), object)  # [batch]
    feeds = {signature.inputs["inputs"].name: rows for signature in signatures}
    wanted = {"outputs", "classes", "scores"}
    fetches = sorted(
        {info.name for signature in signatures for name, info in signature.outputs.items() if name in wanted}
    )
    return dict(zip(fetches, servable.run(feeds, fetches, api), strict=True))


def _write_spec(spec: Any, servable: Servable, signature_name: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature_name or DEFAULT_SIGNATURE


def _write_regressions(result: Any, signature: Any, outputs: dict[str, np.ndarray], count: int) -> None:
    values = outputs[signature.outputs["outputs"].name]
    if not (values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape_text(values)}"
        )
    if values.shape[0] != count:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {count} vs. {values.shape[0]}"
        )
    if values.dtype != np.float32:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {_enum_name(values)}")
    for value in values.ravel().tolist():
        result.regressions.add(value=value)


def _write_classifications(result: Any, signature: Any, outputs: dict[str, np.ndarray], count: int) -> None:
    named = {name: outputs[info.name] for name, info in signature.outputs.items() if info.name in outputs}
    for name, dtype, enum in (("classes", np.object_, "DT_STRING"), ("scores", np.float32, "DT_FLOAT")):
        value = named.get(name)
        if value is None:
            continue
        if value.ndim != 2:
            raise invalid_argument(
                f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(value)}"
            )
        if value.dtype != dtype:
            raise invalid_argument(f"Expected {name} Tensor of {enum}. Got: {_enum_name(value)}")
        if value.shape[0] != count:
            raise invalid_argument(f"Expected {name} output batch size of {count}. Got: {value.shape[0]}")
    widths = [value.shape[1] for value in named.values()]
    if len(set(widths)) > 1:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{named['classes'].shape[1]} vs. {named['scores'].shape[1]}"
        )
    for row in range(count):
        entry = result.classifications.add()
        for column in range(widths[0]):
            chosen = {"label": named["classes"][row, column]} if "classes" in named else {}
            if "scores" in named:
                chosen["score"] = float(named["scores"][row, column])
            entry.classes.add(**chosen)


def _shape_text(value: np.ndarray) -> str:
    return "[" + ",".join(map(str, value.shape)) + "]"


def _enum_name(value: np.ndarray) -> str:
    by_type = {np.dtype(np.float64): "DT_DOUBLE", np.dtype(np.object_): "DT_STRING"}
    name: str = by_type.get(value.dtype, f"DT_{value.dtype.name.upper()}")
    return name if name in types_pb2.DataType.DESCRIPTOR.values_by_name else value.dtype.name
