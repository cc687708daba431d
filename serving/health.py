"""gRPC's standard health service: all is well until the server is told to end.

grpcio-health-checking has one for asyncio, but there the end of one watcher leaves all others of the same
service unheard.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVICES = ("", "PredictionService", "ModelService")  # the names that TensorFlow Serving sets
_Status = health_pb2.HealthCheckResponse


class HealthService(health_pb2_grpc.HealthServicer):
    """Check and Watch; to be made and used in one event loop."""

    def __init__(self) -> None:
        self._ending = asyncio.Event()

    def say_not_serving(self) -> None:
        """Tell whoever asks or watches from now on that requests should go elsewhere."""
        self._ending.set()

    async def Check(self, request: Any, context: Any) -> Any:
        """The health of a service; NOT_FOUND for an unknown one."""
        if request.service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self._now()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The health of a service now, and again when it changes."""
        if request.service not in _SERVICES:
            yield _Status(status=_Status.SERVICE_UNKNOWN)
        else:
            yield self._now()
            if not self._ending.is_set():
                await self._ending.wait()
                yield self._now()
        await asyncio.Event().wait()  # the client ends it, or the server's end

    def _now(self) -> Any:
        return _Status(status=_Status.NOT_SERVING if self._ending.is_set() else _Status.SERVING)
