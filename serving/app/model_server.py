"""Requests to the model server: to a version by its label, within a trace, and with counters made before."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import numpy as np

from genre_tf.contract import GENERATOR, RECOMMENDER
from genre_tf.serving.app.request_log import RequestLog
from genre_tf.serving.app.rules import STABLE
from genre_tf.serving.app.tracing import Tracing
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
_MISSING_S = 1.0  # a label that no version has is not asked for again so soon
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
    """Channels to TensorFlow Serving or the embedded server; threads may share them.

    Args:
        address: of gRPC, HOST:PORT.
        generator: the same of `genre_generator`, if it has a server of its own.
        tracing: makes a span of each call; None: no spans.
        request_log: gets each request that was answered; None: none is logged.
    """

    def __init__(
        self,
        address: str,
        generator: str | None = None,
        *,
        tracing: Tracing | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        self.address, self._tracing, self._request_log = address, tracing or Tracing(), request_log
        self._missing: dict[tuple[str, str], float] = {}  # labels that no version had, and until when
        addresses = {address, generator or address}
        for one in addresses:
            check_target(one)
        self._channels = {one: open_channel(one, None) for one in addresses}
        self._predict = {
            servable: self._channels[one].unary_unary(PREDICT, bytes, PredictResponse.FromString)
            for servable, one in ((RECOMMENDER, address), (GENERATOR, generator or address))
        }

    def ask(
        self, call: Call[Answer], timeout_s: float, *, label: str = "", trace: str = "", more: bytes = b""
    ) -> Answered[Answer]:
        """Ask the version with a label; without such a version that with `stable`, then the newest.

        `trace` is a W3C traceparent; `more` are further inputs, made by `inputs`.

        Raises:
            InputError, FailureError: as from the client.
        """
        with self._tracing.call(trace, call.signature) as step:
            answered: Answered[Answer] = self._ask(call, timeout_s, label, step.trace, more)
            step.attributes["version"] = answered.version
            return answered

    def _ask(
        self, call: Call[Answer], timeout_s: float, label: str, trace: str, more: bytes
    ) -> Answered[Answer]:
        started = time.monotonic()
        request = call.request(call.servable)
        lacking: list[str] = []
        choices = iter([one for one in dict.fromkeys((label, STABLE, "")) if not self._lacks(call, one)])
        request.model_spec.version_label = next(choices)
        metadata = [("traceparent", trace)] if trace else []
        waits, ends = iter(WAITS_S), started + timeout_s
        while True:
            try:
                message = request.SerializeToString() + more
                response = self._predict[call.servable](
                    message, timeout=ends - time.monotonic(), metadata=metadata
                )
                break
            except grpc.RpcError as error:
                if request.model_spec.version_label and error.code() in _NO_VERSION:
                    lacking.append(request.model_spec.version_label)
                    request.model_spec.version_label = next(choices)
                else:
                    time.sleep(wait_s(error, next(waits), ends, self.address, timeout_s))
        # Known only now: a request that is wrong is refused with the same status, with any label.
        self._missing |= {(call.servable, one): started + _MISSING_S for one in lacking}
        version = f"{call.servable}/{response.model_spec.version.value}"
        answered = Answered(call.answer(response), version, time.monotonic() - started)
        if self._request_log is not None:
            self._request_log.offer(request, more)
        return answered

    def _lacks(self, call: Call[Any], label: str) -> bool:
        return self._missing.get((call.servable, label), 0.0) > time.monotonic()

    def ping(self) -> None:
        """Check that a server answers, or raise its error in plain words."""
        try:
            self._channels[self.address].unary_unary(NO_METHOD)(b"", timeout=_PING_S)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise plain_error(error, self.address, _PING_S) from error

    def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            channel.close()


def recommend_live(history: list[str]) -> Call[list[list[Recommendation]]]:
    """The call of `recommend_live` without its counters, which `ask` gets as `more`."""
    call = calls.recommend_live([history], [{}])
    return dataclasses.replace(call, inputs={"history": call.inputs["history"]})


def inputs(named: Mapping[str, np.ndarray]) -> bytes:
    """Inputs as bytes of a PredictRequest; appended to those of another, they add to its inputs."""
    request = PredictRequest()
    for name, value in named.items():
        write_proto(value, request.inputs[name])
    serialized: bytes = request.SerializeToString()
    return serialized
