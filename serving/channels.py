"""How clients speak gRPC: what is sent again, how long is waited, and errors in plain words."""

import json
from typing import Any

import grpc

from genre_tf.errors import FailureError, InputError

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
_QUEUE_FULL = "batch scheduling queue"  # in the words of TensorFlow Serving

# A Predict changes nothing in the server and gives the same answer twice, so that sending it again is safe
# wherever the first one got. Only UNAVAILABLE is worth it: no connection, a server that goes away, a full
# queue. gRPC draws each wait at random, keeps to the deadline of the whole call, and stops sending again
# where more calls fail than succeed, so that retries do not press down a server that is overloaded.
_SERVICE_CONFIG = {
    # A name may stand for several servers (dns:///…-pods of the Kubernetes files): ask them in turn. gRPC's
    # own way is to stay with the first that answers.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService", "method": "Predict"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # a whole batch of texts may be larger than gRPC's 4 MiB
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A server that was away is found again within seconds; gRPC would wait up to two minutes between looks.
    ("grpc.max_reconnect_backoff_ms", 2000),
]
"""Of every channel. No keep-alive pings: TensorFlow Serving's gRPC hangs up on those that ping often."""


def open_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A channel to a server; without credentials not encrypted."""
    if credentials is None:
        return grpc.insecure_channel(address, OPTIONS)
    return grpc.secure_channel(address, credentials, OPTIONS)


def check_target(address: str, timeout_s: float) -> None:
    """See that an address and a deadline can be meant.

    Raises:
        InputError: they cannot.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InputError(f"address {address!r} is not HOST:PORT: give one such as 127.0.0.1:8500")
    if not 0 < timeout_s < float("inf"):
        raise InputError(f"a deadline is a number of seconds above 0: received {timeout_s}")


def plain_error(error: Any, address: str, timeout_s: float) -> Exception:
    """An RpcError as what a caller can act upon.

    Args:
        error: it.
        address: of the server.
        timeout_s: the deadline that held.

    Returns:
        InputError where the server refused the request, else FailureError.
    """
    code, details = error.code(), error.details()
    if code in _REFUSALS:
        return InputError(f"the server at {address} refused the request: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return FailureError(f"no answer from {address} within {timeout_s:g} s: wait longer, or ask for less")
    if code is grpc.StatusCode.UNAVAILABLE and _QUEUE_FULL in str(details):
        return FailureError(
            f"the server at {address} is asked more than it can answer: ask less often, or run more servers"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return FailureError(
            f"no server answers at {address} ({str(details).rpartition(': ')[2]}): start one with "
            "`genre serve MODELS`, or give its address"
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return FailureError(
            f"the request is more than the server at {address} takes ({details}): ask for less"
        )
    return FailureError(f"the server at {address} failed ({code.name}): {details}")
