"""One version of a model, loaded into a session as TensorFlow Serving does, and the APIs that it answers.

Checks, codes and batches are TensorFlow Serving's.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (registers the ops that TensorFlow Serving links in)
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import predict_pb2, regression_pb2

from genre_tf.contract import DEFAULT_SIGNATURE
from genre_tf.serving.client.messages import to_array, write_proto
from genre_tf.serving.embedded.batching import BatchingRunner, BatchScheduler
from genre_tf.serving.embedded.errors import ServingError, invalid_argument
from genre_tf.serving.embedded.metrics import ServerMetrics

_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Clients may filter any set of outputs, and each set needs its own compiled call: limit their number.
_MAX_CALLS = 64


class Servable:
    """A SavedModel with its own graph and session.

    It is loaded through the session, not by `tf.saved_model.load`, so that requests fail or succeed here as
    on TensorFlow Serving: Python functions and trackable objects are not available. Without a scheduler every
    request runs separately.
    """

    def __init__(
        self,
        name: str,
        version: int,
        folder: Path,
        metrics: ServerMetrics | None = None,
        scheduler: BatchScheduler | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self._metrics = metrics or ServerMetrics()
        self._batching = BatchingRunner(scheduler, self._run_graph) if scheduler else None
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        self._calls: dict[tuple[tuple[str, ...], tuple[str, ...]], Any] = {}
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
        except Exception:
            self._session.close()
            raise
        self.signatures: dict[str, Any] = dict(meta_graph.signature_def)
        # tensor name -> NumPy dtype, for every input
        self._types = {
            info.name: np.dtype(tf.dtypes.as_dtype(info.dtype).as_numpy_dtype)
            for signature in self.signatures.values()
            for info in signature.inputs.values()
        }

    def run(self, feeds: dict[str, np.ndarray], fetches: Sequence[str], api: str) -> list[np.ndarray]:
        """Run the graph once, or with batching together with other requests; `api` is counted.

        Feeds are arrays by tensor name, strings object arrays of bytes; each fetch is an array.
        """
        for name, value in feeds.items():
            if self._types[name] != value.dtype:
                raise invalid_argument(
                    f"tensor {name} must be {_type_name(self._types[name])}; got {_type_name(value.dtype)}"
                )
        feeds = dict(sorted(feeds.items()))  # one order for all requests of a signature, for `_run_graph`
        started = time.perf_counter()
        values = (self._batching.run if self._batching else self._run_graph)(feeds, fetches)
        elapsed_us = (time.perf_counter() - started) * 1e6
        self._metrics.runtime_latency.labels(self.name, api, "TF1").observe(elapsed_us)
        return values

    def close(self) -> None:
        """Close the session; running requests finish first."""
        self._calls.clear()
        self._session.close()

    def _run_graph(self, feeds: dict[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        kind = tuple(feeds), tuple(fetches)
        call = self._calls.get(kind)
        if call is None:
            options = config_pb2.CallableOptions(feed=kind[0], fetch=kind[1])
            # The public `run` refuses ranks that TensorFlow Serving accepts, and changes error texts.
            call = self._session._make_callable_from_options(options)
            if len(self._calls) >= _MAX_CALLS:
                self._calls.clear()
            self._calls[kind] = call
        try:
            values = call(*feeds.values())
        except tf.errors.OpError as error:
            code = _CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
            raise ServingError(code, error.message) from error
        except UnicodeDecodeError as error:  # an error text that quotes non-UTF-8 bytes of the request
            raise invalid_argument(error.object.decode("utf-8", "replace")) from error
        # A scalar string is `bytes`; without the type NumPy would cut its trailing zero bytes.
        return [
            np.array(value, object) if isinstance(value, bytes) else np.asarray(value) for value in values
        ]


def _type_name(dtype: np.dtype) -> str:
    return "string" if dtype == np.object_ else dtype.name


def answer_predict(servable: Servable, request: Any) -> Any:
    """Answer a PredictRequest with a PredictResponse."""
    name, signature = _signature(servable, request, grpc.StatusCode.FAILED_PRECONDITION)
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
    """Run one of the servable's SignatureDefs: input name -> array in, output name -> array out.

    A missing input has the signature's default, if there is one. An empty filter asks for all outputs.
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
    """Answer a RegressionRequest with a RegressionResponse: one number for each tf.Example."""
    name, signature = _signature(servable, request, grpc.StatusCode.INVALID_ARGUMENT)
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


def _signature(servable: Servable, request: Any, code: grpc.StatusCode) -> tuple[str, Any]:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        text = f"model {servable.name} has no signature {name!r}; it has {_names(servable.signatures)}"
        raise ServingError(code, text)
    return name, servable.signatures[name]


def _read(name: str, proto: Any) -> np.ndarray:
    try:
        return to_array(proto)
    except ValueError as error:
        raise invalid_argument(f"input {name} is not a valid tensor: {error}") from error


def _write_spec(spec: Any, servable: Servable, signature_name: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature_name


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
