"""TensorFlow Serving's gRPC services, answered from a ModelManager."""

from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from genre_tf.errors import InputError
from genre_tf.serving.inference import classify, multi_inference, regress
from genre_tf.serving.model_info import model_metadata, model_status, read_spec
from genre_tf.serving.model_manager import ModelManager, ModelSpec
from genre_tf.serving.prediction import answer_predict
from genre_tf.serving.servable import Servable
from genre_tf.serving.statuses import ServingError


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Regress, Classify, MultiInference and GetModelMetadata.

    Args:
        manager: the models to answer from.
    """

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Run one signature."""
        return self._run(context, read_spec, answer_predict, request)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """The signatures of one version."""
        return _answered(
            context, lambda: model_metadata(self._manager, read_spec(request), request.metadata_field)
        )

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        """One number for each tf.Example."""
        return self._run(context, read_spec, regress, request)

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Labels and scores for each tf.Example."""
        return self._run(context, read_spec, classify, request)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Several of both in one run."""
        return self._run(context, _first_spec, multi_inference, request)

    def _run(
        self,
        context: grpc.ServicerContext,
        spec_of: Callable[[Any], ModelSpec],
        run: Callable[[Servable, Any], Any],
        request: Any,
    ) -> Any:
        def answer() -> Any:
            with self._manager.use(spec_of(request)) as servable:
                return run(servable, request)

        return _answered(context, answer)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus.

    Args:
        manager: the models to answer from.
    """

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """How the versions of a model fare."""
        return _answered(context, lambda: model_status(self._manager, read_spec(request)))


def bind_grpc(
    manager: ModelManager, host: str, port: int, threads: int, max_message_bytes: int
) -> tuple[grpc.Server, int]:
    """Make a server of the services, and of gRPC's standard health service, on its port but not started.

    Args:
        manager: the models to answer from.
        host: the address to listen at.
        port: the port, 0 for a free one.
        threads: how many requests run at a time.
        max_message_bytes: the largest request.

    Returns:
        The server, and its port.

    Raises:
        InputError: the port cannot be had.
    """
    options = [
        ("grpc.so_reuseport", 0),  # with it a second server would quietly share an occupied port
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(threads, "grpc"), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(manager), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(manager), server)
    healthy = health.HealthServicer()
    for service in ("", "PredictionService", "ModelService"):  # the names that TensorFlow Serving sets
        healthy.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    try:
        return server, server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise InputError(
            f"port {port} of {host} cannot be had for gRPC (occupied, or not this machine's address): "
            "choose another with --grpc-port, or 0 for a free one"
        ) from error


def _first_spec(request: Any) -> ModelSpec:
    return read_spec(request.tasks[0]) if request.tasks else ModelSpec("")


def _answered(context: grpc.ServicerContext, answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except ServingError as error:
        return context.abort(error.code, error.message)
