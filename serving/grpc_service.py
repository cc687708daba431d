"""TensorFlow Serving's gRPC services, answered from a ModelManager.

One event loop, in a thread of its own, reads every request and writes every answer; graphs run in other
threads. With a thread a request, each answer of a batch would wait for Python's lock behind all others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from genre_tf.serving.in_flight import InFlight
from genre_tf.serving.inference import classify_run, multi_inference_run, regress_run
from genre_tf.serving.metrics import ServerMetrics
from genre_tf.serving.model_info import model_metadata, model_status, read_spec
from genre_tf.serving.model_manager import ModelManager, ModelSpec
from genre_tf.serving.prediction import predict_run
from genre_tf.serving.servable import GraphRun, Servable
from genre_tf.serving.statuses import ServingError

Context: TypeAlias = grpc.aio.ServicerContext  # type: ignore[name-defined,unused-ignore]

_DETAILS_BYTES = 6000


class PredictionService:
    """Predict, Regress, Classify, MultiInference and GetModelMetadata.

    Args:
        manager: the models to answer from.
        metrics: counts requests.
        in_flight: counts those that run.
    """

    def __init__(self, manager: ModelManager, metrics: ServerMetrics, in_flight: InFlight) -> None:
        self._manager = manager
        self._metrics = metrics
        self._in_flight = in_flight

    async def Predict(self, request: Any, context: Context) -> Any:
        """Run one signature."""
        return await self._counted(context, "Predict", predict_run, request)

    async def GetModelMetadata(self, request: Any, context: Context) -> Any:
        """The signatures of one version."""

        async def answer() -> Any:
            return model_metadata(self._manager, read_spec(request), request.metadata_field)

        return await _answered(context, self._in_flight, answer)

    async def Regress(self, request: Any, context: Context) -> Any:
        """One number for each tf.Example."""
        return await self._counted(context, "Regress", regress_run, request)

    async def Classify(self, request: Any, context: Context) -> Any:
        """Labels and scores for each tf.Example."""
        return await self._counted(context, "Classify", classify_run, request)

    async def MultiInference(self, request: Any, context: Context) -> Any:
        """Several of both in one run."""

        async def answer() -> Any:
            spec = read_spec(request.tasks[0]) if request.tasks else ModelSpec("")
            with self._manager.use(spec) as servable:
                return await servable.answer_async(multi_inference_run(servable, request))

        return await _answered(context, self._in_flight, answer)

    async def _counted(
        self, context: Context, api: str, prepare: Callable[[Servable, Any], GraphRun], request: Any
    ) -> Any:
        """Run a request, and count it as TensorFlow Serving counts these three APIs and no other."""
        started = time.perf_counter()

        async def answer() -> Any:
            try:
                with self._manager.use(read_spec(request)) as servable:
                    response = await servable.answer_async(prepare(servable, request))
            except ServingError as error:
                self._metrics.requests.add(request.model_spec.name, error.code.name)
                raise
            except asyncio.CancelledError:
                self._metrics.requests.add(request.model_spec.name, "CANCELLED")
                raise
            elapsed_us = (time.perf_counter() - started) * 1e6
            self._metrics.request_latency.add(elapsed_us, request.model_spec.name, api, "GRPC")
            self._metrics.requests.add(request.model_spec.name, "OK")
            return response

        return await _answered(context, self._in_flight, answer)


class ModelService:
    """GetModelStatus.

    Args:
        manager: the models to answer from.
        in_flight: counts the requests that run.
    """

    def __init__(self, manager: ModelManager, in_flight: InFlight) -> None:
        self._manager = manager
        self._in_flight = in_flight

    async def GetModelStatus(self, request: Any, context: Context) -> Any:
        """How the versions of a model fare."""

        async def answer() -> Any:
            return model_status(self._manager, read_spec(request))

        return await _answered(context, self._in_flight, answer)


async def _answered(context: Context, in_flight: InFlight, answer: Callable[[], Awaitable[Any]]) -> Any:
    try:
        with in_flight.request():
            return await answer()
    except ServingError as error:
        # Details travel in a header of some 8 kB, where what is not ASCII takes three times its bytes.
        most = _DETAILS_BYTES if error.message.isascii() else _DETAILS_BYTES // 9
        return await context.abort(error.code, error.message[:most])
