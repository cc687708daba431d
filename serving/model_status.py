"""Asks a running server which versions it has loaded."""

import time
from collections.abc import Callable

import grpc

from genre_tf.errors import FailureError
from genre_tf.serving.channels import open_channel

_POLL_S = 0.2
_ANSWER_S = 5  # for one status request: a server that loads a model on all cores answers late


def available_versions(channel: grpc.Channel, name: str) -> set[int]:
    """Versions of a model that answer; empty if the server cannot be reached."""
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    try:
        answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=_ANSWER_S)
    except grpc.RpcError:
        return set()
    return {state.version for state in answer.model_version_status if state.state == state.AVAILABLE}


def wait_until(condition: Callable[[], bool], longest_s: float) -> bool:
    """Poll a condition; False if it does not hold within `longest_s` seconds."""
    deadline = time.monotonic() + longest_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def wait_until_loaded(
    address: str,
    name: str,
    version: int,
    longest_s: float,
    credentials: grpc.ChannelCredentials | None = None,
) -> None:
    """Wait until a server answers for a version.

    Args:
        address: gRPC address of the server, HOST:PORT.
        name: name of the model.
        version: version to wait for.
        longest_s: maximum wait in seconds.
        credentials: for a server with TLS; None: no encryption.

    Raises:
        FailureError: the version was not loaded within that time.
    """
    with open_channel(address, credentials) as channel:
        if not wait_until(lambda: version in available_versions(channel, name), longest_s):
            has = ", ".join(map(str, sorted(available_versions(channel, name)))) or "none"
            raise FailureError(
                f"{address} has not loaded version {version} of {name} after {longest_s:.0f} s (it has: "
                f"{has}): check that it runs with --model_config_file_poll_wait_seconds, and read its log"
            )
