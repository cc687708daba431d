"""TensorFlow Serving's gRPC services: Predict, Regress, metadata, status; other methods are UNIMPLEMENTED."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from genre_tf.errors import InputError
from genre_tf.serving.client.channels import host_port
from genre_tf.serving.embedded.errors import ServingError, invalid_argument
from genre_tf.serving.embedded.manager import ModelManager, ModelSpec
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.servable import Servable, answer_predict, answer_regress

SIGNATURES = "signature_def"
_DETAILS_BYTES = 6000
_SENT_S = 1.0


class GrpcServer:
    """The services and gRPC's standard health service, bound to a port (0: any free one) but not started.

    `threads` requests run at a time, `most_calls` run or wait; those beyond, and requests of more than
    `max_message_bytes`, get RESOURCE_EXHAUSTED.
    """

    def __init__(
        self,
        manager: ModelManager,
        metrics: ServerMetrics,
        *,
        host: str,
        port: int,
        threads: int,
        most_calls: int,
        max_message_bytes: int,
    ) -> None:
        options = [
            ("grpc.so_reuseport", 0),  # otherwise a second server would silently share an occupied port
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
        ]
        self._server = grpc.server(
            ThreadPoolExecutor(threads, "grpc"), options=options, maximum_concurrent_rpcs=most_calls
        )
        services = _Services(manager, metrics)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, self._server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, self._server)
        self._health = health.HealthServicer()
        for service in ("", "PredictionService", "ModelService"):  # the names that TensorFlow Serving sets
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._started = False
        try:
            self.port: int = self._server.add_insecure_port(host_port(host, port))
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {host_port(host, port)} (gRPC): the port is occupied, or the host is not "
                "this machine; choose another port with --grpc-port, or 0 for a free one"
            ) from error

    def start(self) -> None:
        """Start to answer."""
        self._started = True
        self._server.start()

    def say_not_serving(self) -> None:
        """Report NOT_SERVING to health checks, so that requests are sent elsewhere."""
        self._health.enter_graceful_shutdown()

    def stop(self) -> None:
        """Stop; requests that have run get a moment in which their answers are sent."""
        if not self._started:  # only a started server releases its port
            self.start()
        self._server.stop(_SENT_S).wait()


def model_status(manager: ModelManager, spec: ModelSpec) -> Any:
    """The GetModelStatusResponse for `spec`."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for state in manager.states(spec):
        entry = response.model_version_status.add(version=state.version, state=state.state)
        entry.status.SetInParent()
        entry.status.error_code = state.error_code
        entry.status.error_message = state.error_message
    return response


def model_metadata(manager: ModelManager, spec: ModelSpec) -> Any:
    """The GetModelMetadataResponse for `spec`: the signatures of a version."""
    found = get_model_metadata_pb2.SignatureDefMap()
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with manager.use(spec) as servable:
        for name, signature in servable.signatures.items():
            found.signature_def[name].CopyFrom(signature)
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
    response.metadata[SIGNATURES].Pack(found)
    return response


class _Services(
    prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer
):
    def __init__(self, manager: ModelManager, metrics: ServerMetrics) -> None:
        self._manager = manager
        self._metrics = metrics

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._run(request, context, "Predict", answer_predict)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._run(request, context, "Regress", answer_regress)

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _errors_sent(context):
            if list(request.metadata_field) != [SIGNATURES]:
                raise invalid_argument(
                    f"metadata_field must be [{SIGNATURES!r}]; got {list(request.metadata_field)}"
                )
            return model_metadata(self._manager, _spec(request))

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        with _errors_sent(context):
            return model_status(self._manager, _spec(request))

    def _run(
        self, request: Any, context: grpc.ServicerContext, api: str, run: Callable[[Servable, Any], Any]
    ) -> Any:
        with (
            _errors_sent(context),
            self._metrics.counted(request.model_spec.name, api, "GRPC"),
            self._manager.use(_spec(request)) as servable,
        ):
            return run(servable, request)


@contextmanager
def _errors_sent(context: grpc.ServicerContext) -> Iterator[None]:
    try:
        yield
    except ServingError as error:
        # Details travel in a header of about 8 kB, where each byte that is not ASCII takes three bytes.
        most = _DETAILS_BYTES if error.message.isascii() else _DETAILS_BYTES // 9
        context.abort(error.code, error.message[:most])


def _spec(request: Any) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid_argument("the request has no model_spec")
    spec = request.model_spec
    chosen = spec.WhichOneof("version_choice")
    return ModelSpec(
        spec.name,
        version=spec.version.value if chosen == "version" else None,
        label=spec.version_label if chosen == "version_label" else None,
    )
