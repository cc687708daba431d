"""gRPC channels of the clients: retries, waiting times, and errors in plain words."""

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
# No server has this method: any server answers UNIMPLEMENTED at once, without work.
_NO_METHOD = "/tensorflow.serving.PredictionService/Ping"
_QUEUE_FULL = "batch scheduling queue"  # part of TensorFlow Serving's message

# A Predict changes nothing in the server and always gives the same answer, so sending it again is safe,
# however far the first attempt got. Only UNAVAILABLE is retried: no connection, a server that is stopping, a
# full queue. gRPC draws each wait at random, keeps to the deadline of the whole call, and stops retrying when
# too many calls fail, so that retries do not add to the load of an overloaded server.
_SERVICE_CONFIG = {
    # A name may resolve to several servers (dns:///…-pods in the Kubernetes files): use them in turn. By
    # default gRPC stays with the first that answers.
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
    ("grpc.max_receive_message_length", -1),  # a batch of texts may exceed gRPC's limit of 4 MiB
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # Reconnect to a restarted server within seconds; gRPC would wait up to two minutes between attempts.
    ("grpc.max_reconnect_backoff_ms", 2000),
]
"""Options of every channel. No keep-alive pings: TensorFlow Serving disconnects clients that ping often."""


def open_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A channel to a server; without credentials it is not encrypted."""
    if credentials is None:
        return grpc.insecure_channel(address, OPTIONS)
    return grpc.secure_channel(address, credentials, OPTIONS)


def check_server(address: str, timeout_s: float, credentials: grpc.ChannelCredentials | None = None) -> None:
    """Check that a server answers, at once: a request would first be sent again, for about a second.

    Raises:
        FailureError: no server answers within the deadline.
    """
    with open_channel(address, credentials) as channel:
        try:
            channel.unary_unary(_NO_METHOD)(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise plain_error(error, address, timeout_s) from error


def check_target(address: str, timeout_s: float) -> None:
    """Check an address and a deadline.

    Raises:
        InputError: `address` is not HOST:PORT, or `timeout_s` is not a number of seconds above 0.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InputError(f"address {address!r} is not HOST:PORT: give one such as 127.0.0.1:8500")
    if not 0 < timeout_s < float("inf"):
        raise InputError(f"the deadline must be a number of seconds above 0; got {timeout_s}")


def plain_error(error: Any, address: str, timeout_s: float) -> Exception:
    """Turn an RpcError into an error that says what to do.

    Args:
        error: the RpcError.
        address: address of the server.
        timeout_s: deadline of the call in seconds.

    Returns:
        InputError if the server refused the request, otherwise FailureError.
    """
    code, details = error.code(), error.details()
    if code in _REFUSALS:
        return InputError(f"the server at {address} refused the request: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return FailureError(f"no answer from {address} within {timeout_s:g} s: wait longer, or ask for less")
    if code is grpc.StatusCode.UNAVAILABLE and _QUEUE_FULL in str(details):
        return FailureError(
            f"the server at {address} is overloaded, its queue is full: ask less often, or run more servers"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return FailureError(
            f"no server answers at {address} ({str(details).rpartition(': ')[2]}): start one with "
            "`genre serve MODELS`, or give its address"
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return FailureError(f"the request is too large for the server at {address} ({details}): ask for less")
    return FailureError(f"the server at {address} failed ({code.name}): {details}")
