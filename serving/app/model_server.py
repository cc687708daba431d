"""Requests to the model server: to a version by its label, within a trace, and with counters made before."""

import asyncio
import dataclasses
import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from genre_tf.contract import GENERATOR, RECOMMENDER
from genre_tf.errors import FailureError
from genre_tf.serving.client import calls
from genre_tf.serving.client.calls import Call, Recommendation
from genre_tf.serving.client.channels import (
    NO_METHOD,
    WAITS_S,
    check_target,
    open_channel,
    plain_error,
    wait_s,
)
from genre_tf.serving.client.messages import PREDICT, PredictRequest, PredictResponse, write_proto

Answer = TypeVar("Answer")

_PING_S = 2.0
_NO_VERSION = (
    grpc.StatusCode.INVALID_ARGUMENT,  # a label that no version has
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)


@dataclass(frozen=True, slots=True)
class Answered(Generic[Answer]):
    """An answer, the version that gave it, and how long it took."""

    answer: Answer
    version: str  # such as genre_recommender/3
    seconds: float


class ModelServer:
    """A channel to TensorFlow Serving or the embedded server; create it inside a running event loop.

    Args:
        address: of gRPC, HOST:PORT.
        most_at_once: requests that it gets at a time; further ones wait here, within their deadline.
        credentials: for a server with TLS.
    """

    def __init__(
        self, address: str, most_at_once: int = 64, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        check_target(address)
        self.address = address
        self._channel = open_channel(address, credentials, grpc.aio)
        self._predict = self._channel.unary_unary(PREDICT, bytes, PredictResponse.FromString)
        self._free = {RECOMMENDER: asyncio.Semaphore(most_at_once), GENERATOR: asyncio.Semaphore(4)}

    async def ask(
        self, call: Call[Answer], timeout_s: float, *, label: str = "", trace: str = "", more: bytes = b""
    ) -> Answered[Answer]:
        """Ask, of the version with a label if there is one, and otherwise of the one without.

        `trace` is a W3C traceparent; `more` are further inputs, made by `inputs`.

        Raises:
            InputError, FailureError: as from the client.
        """
        started = time.monotonic()
        ends = started + timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._free[call.servable]:
                response = await self._send(call, ends, timeout_s, label, trace, more)
        except TimeoutError:
            raise FailureError(f"no answer from {self.address} within {timeout_s:g} s") from None
        version = f"{call.servable}/{response.model_spec.version.value}"
        return Answered(call.answer(response), version, time.monotonic() - started)

    async def _send(
        self, call: Call[Any], ends: float, timeout_s: float, label: str, trace: str, more: bytes
    ) -> Any:
        request = call.request(call.servable)
        request.model_spec.version_label = label
        metadata = [("traceparent", trace)] if trace else []
        waits = iter(WAITS_S)
        while True:
            try:
                message = request.SerializeToString() + more
                return await self._predict(message, timeout=ends - time.monotonic(), metadata=metadata)
            except grpc.RpcError as error:
                if request.model_spec.version_label and error.code() in _NO_VERSION:
                    request.model_spec.version_label = ""
                else:
                    await asyncio.sleep(wait_s(error, next(waits), ends, self.address, timeout_s))

    async def ping(self) -> None:
        """Check that a server answers, or raise its error in plain words."""
        try:
            await self._channel.unary_unary(NO_METHOD)(b"", timeout=_PING_S)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise plain_error(error, self.address, _PING_S) from error

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def recommend_live(history: list[str]) -> Call[list[list[Recommendation]]]:
    """The call of `recommend_live` without its counters, which `ask` gets as `more`."""
    call = calls.recommend_live([history], [{}])
    return dataclasses.replace(call, inputs={"history": call.inputs["history"]})


def inputs(call: Call[Any], *left_out: str) -> bytes:
    """The inputs of a call as bytes of a PredictRequest; appended to another, they add to its inputs."""
    request = PredictRequest()
    for name, value in call.inputs.items():
        if name not in left_out:
            write_proto(value, request.inputs[name])
    serialized: bytes = request.SerializeToString()
    return serialized
