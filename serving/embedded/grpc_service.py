"""TensorFlow Serving's gRPC services, answered from a ModelManager."""

import time
from collections.abc import Callable
from typing import Any

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from genre_tf.serving.embedded.in_flight import InFlight
from genre_tf.serving.embedded.inference import classify, multi_inference, regress
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.model_info import model_metadata, model_status, read_spec
from genre_tf.serving.embedded.model_manager import ModelManager, ModelSpec
from genre_tf.serving.embedded.prediction import answer_predict
from genre_tf.serving.embedded.servable import Servable
from genre_tf.serving.embedded.statuses import ServingError

_DETAILS_BYTES = 6000


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Regress, Classify, MultiInference and GetModelMetadata.

    Args:
        manager: the models to answer from.
        metrics: counts requests.
        in_flight: counts running requests.
    """

    def __init__(self, manager: ModelManager, metrics: ServerMetrics, in_flight: InFlight) -> None:
        self._manager = manager
        self._metrics = metrics
        self._in_flight = in_flight

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Run one signature."""
        return self._counted(context, "Predict", answer_predict, request)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """The signatures of one version."""
        fields = request.metadata_field
        return _answered(
            context, self._in_flight, lambda: model_metadata(self._manager, read_spec(request), fields)
        )

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        """One number for each tf.Example."""
        return self._counted(context, "Regress", regress, request)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Labels and scores for each tf.Example."""
        return self._counted(context, "Classify", classify, request)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Several Regress and Classify tasks in one run of the graph."""

        def answer() -> Any:
            spec = read_spec(request.tasks[0]) if request.tasks else ModelSpec("")
            with self._manager.use(spec) as servable:
                return multi_inference(servable, request)

        return _answered(context, self._in_flight, answer)

    def _counted(
        self, context: grpc.ServicerContext, api: str, run: Callable[[Servable, Any], Any], request: Any
    ) -> Any:
        """Run and count a request; like TensorFlow Serving, count only Predict, Regress and Classify."""
        started = time.perf_counter()

        def answer() -> Any:
            try:
                with self._manager.use(read_spec(request)) as servable:
                    response = run(servable, request)
            except ServingError as error:
                self._metrics.requests.add(request.model_spec.name, error.code.name)
                raise
            elapsed_us = (time.perf_counter() - started) * 1e6
            self._metrics.request_latency.add(elapsed_us, request.model_spec.name, api, "GRPC")
            self._metrics.requests.add(request.model_spec.name, "OK")
            return response

        return _answered(context, self._in_flight, answer)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus.

    Args:
        manager: the models to answer from.
        in_flight: counts running requests.
    """

    def __init__(self, manager: ModelManager, in_flight: InFlight) -> None:
        self._manager = manager
        self._in_flight = in_flight

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """The states of a model's versions."""
        return _answered(context, self._in_flight, lambda: model_status(self._manager, read_spec(request)))


def _answered(context: grpc.ServicerContext, in_flight: InFlight, answer: Callable[[], Any]) -> Any:
    try:
        with in_flight.request():
            return answer()
    except ServingError as error:
        # Details travel in a header of about 8 kB, where each byte that is not ASCII takes three bytes.
        most = _DETAILS_BYTES if error.message.isascii() else _DETAILS_BYTES // 9
        return context.abort(error.code, error.message[:most])
