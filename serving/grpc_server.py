"""The gRPC server: its port, its services, and the event loop that they answer in."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

from genre_tf.errors import InputError
from genre_tf.serving.addresses import host_port
from genre_tf.serving.grpc_service import Context, ModelService, PredictionService
from genre_tf.serving.health import HealthService
from genre_tf.serving.in_flight import InFlight
from genre_tf.serving.metrics import ServerMetrics
from genre_tf.serving.model_manager import ModelManager

# Each holds its message, whether it runs or waits. As many connections as REST may have.
_MOST_CALLS = 1000


class GrpcServer:
    """The services, and gRPC's standard health service, at a port but not started.

    Args:
        manager: the models to answer from.
        metrics: counts requests.
        in_flight: counts those that run.
        host: the address to listen at.
        port: the port, 0 for a free one.
        threads: how many graphs run at a time where requests are not batched.
        max_message_bytes: the largest request; a larger one is RESOURCE_EXHAUSTED.

    Raises:
        InputError: the port cannot be had.
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
        max_message_bytes: int,
    ) -> None:
        self._options = [
            ("grpc.so_reuseport", 0),  # with it a second server would quietly share an occupied port
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
        ]
        self._handlers = [
            _handlers(
                prediction_service_pb2, "PredictionService", PredictionService(manager, metrics, in_flight)
            ),
            _handlers(model_service_pb2, "ModelService", ModelService(manager, in_flight)),
        ]
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(threads, "graph"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)
        self._thread.start()
        self._started = False
        try:
            self.port: int = self._call(self._open(host, port))
        except BaseException:
            self._end()
            raise

    def start(self) -> None:
        """Answer from now on."""
        self._started = True
        self._call(self._server.start())

    def say_not_serving(self) -> None:
        """Tell whoever asks for the health of this server to send requests elsewhere."""
        self._loop.call_soon_threadsafe(self._health.say_not_serving)

    def stop(self) -> None:
        """End at once, with whatever still runs."""
        try:
            if not self._started:  # or its port would stay occupied
                self.start()
            self._call(self._server.stop(0))
        finally:
            self._end()

    async def _open(self, host: str, port: int) -> int:
        """Everything that gRPC wants to be made in its loop; returns the port."""
        self._server = grpc.aio.server(options=self._options, maximum_concurrent_rpcs=_MOST_CALLS)
        self._server.add_generic_rpc_handlers(self._handlers)
        self._health = HealthService()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            return self._server.add_insecure_port(host_port(host, port))
        except RuntimeError as error:
            raise InputError(
                f"port {port} of {host} cannot be had for gRPC (occupied, or not this machine's address): "
                "choose another with --grpc-port, or 0 for a free one"
            ) from error

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end(self) -> None:
        self._call(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _handlers(module: Any, name: str, service: Any) -> grpc.GenericRpcHandler:
    """The methods of a service of a generated module, as far as there are any."""
    declared = module.DESCRIPTOR.services_by_name[name]
    found = {
        method.name: _handler(method, getattr(service, method.name))
        for method in declared.methods
        if hasattr(service, method.name)
    }
    return grpc.method_handlers_generic_handler(declared.full_name, found)


def _handler(method: Any, answer: Callable[[Any, Any], Awaitable[Any]]) -> grpc.RpcMethodHandler:
    """As gRPC's generated code, but for bytes that are no request: INTERNAL, as from gRPC in C++.

    The handlers of asyncio would answer UNKNOWN, and log each as an error of the server.
    """
    request_type, response_type = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

    def read(data: bytes) -> Any:
        try:
            return request_type.FromString(data)
        except DecodeError:
            return None

    async def answered(request: Any, context: Context) -> Any:
        if request is None:
            await context.abort(grpc.StatusCode.INTERNAL, "the request cannot be parsed")
        return await answer(request, context)

    return grpc.unary_unary_rpc_method_handler(
        answered, request_deserializer=read, response_serializer=response_type.SerializeToString
    )


async def _cancel_all() -> None:
    """Let nothing wait any longer, not even for a run of the graph that has begun."""
    for _ in range(2):  # the first time, who waits for a run of the graph goes on waiting
        for task in (running := asyncio.all_tasks() - {asyncio.current_task()}):
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1.0)
