"""The gRPC server: its port, its services and their threads."""

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from genre_tf.errors import InputError
from genre_tf.serving.client.addresses import host_port
from genre_tf.serving.embedded.grpc_service import ModelService, PredictionService
from genre_tf.serving.embedded.in_flight import InFlight
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.model_manager import ModelManager


class GrpcServer:
    """The services and gRPC's standard health service, bound to a port but not started.

    Args:
        manager: the models to answer from.
        metrics: counts requests.
        in_flight: counts running requests.
        host: address to listen on.
        port: port to listen on; 0: any free one.
        threads: number of requests that run at a time.
        most_calls: number of requests that run or wait; those beyond get RESOURCE_EXHAUSTED.
        max_message_bytes: size of the largest request; a larger one gets RESOURCE_EXHAUSTED.

    Raises:
        InputError: the port is occupied, or the address does not belong to this machine.
    """

    def __init__(
        self,
        manager: ModelManager,
        metrics: ServerMetrics,
        in_flight: InFlight,
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
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(manager, metrics, in_flight), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(manager, in_flight), self._server
        )
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
        """Stop at once, without waiting for running requests."""
        if not self._started:  # only a started server releases its port
            self.start()
        self._server.stop(0).wait()
