"""Asks a running server which versions it has loaded, and which one answers."""

import time
from collections.abc import Callable, Mapping

import grpc

from genre_tf.errors import FailureError
from genre_tf.serving.client.channels import open_channel

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


def answering_version(channel: grpc.Channel, name: str, label: str = "") -> int | None:
    """The version that answers a request with this label, or without one; None if there is no answer."""
    from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

    # GetModelStatus ignores labels; this is the cheapest request that finds its version as a Predict does.
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = name
    if label:
        request.model_spec.version_label = label
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    try:
        return int(stub.GetModelMetadata(request, timeout=_ANSWER_S).model_spec.version.value)
    except grpc.RpcError:
        return None


def wait_until(condition: Callable[[], bool], longest_s: float) -> bool:
    """Poll a condition; False if it does not hold within `longest_s` seconds."""
    deadline = time.monotonic() + longest_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def wait_until_served(
    address: str,
    name: str,
    longest_s: float,
    *,
    version: int | None = None,
    answers: Mapping[str, int | None] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> None:
    """Wait until a server has loaded a version, then until requests get what `models.config` chooses.

    Args:
        address: gRPC address of the server, HOST:PORT.
        name: name of the model.
        longest_s: maximum wait for each of the two, in seconds.
        version: version to load; None: do not wait for one.
        answers: label, or "" for requests without one -> its version, None if the label is removed; None: do
            not wait for answers.
        credentials: for a server with TLS; None: no encryption.

    Raises:
        FailureError: the server does not follow within that time.
    """
    expected = answers or {}
    with open_channel(address, credentials) as channel:

        def loaded() -> set[int]:
            return available_versions(channel, name)

        def answered() -> dict[str, int | None]:
            return {label: answering_version(channel, name, label) for label in expected}

        if version is not None and not wait_until(lambda: version in loaded(), longest_s):
            has = ", ".join(map(str, sorted(loaded()))) or "none"
            raise FailureError(
                f"{address} has not loaded version {version} of {name} after {longest_s:.0f} s (it has: "
                f"{has}): check that it runs with --model_config_file_poll_wait_seconds, and read its log"
            )
        # A label that is removed gets no answer, but neither does any request to a server that is down.
        if expected and not wait_until(lambda: answered() == expected and bool(loaded()), longest_s):
            got = "; ".join(
                f"{f'label {label}' if label else 'no label'}: {found or 'no answer'}, not "
                f"{expected[label] or 'removed'}"
                for label, found in answered().items()
            )
            raise FailureError(
                f"after {longest_s:.0f} s {address} does not answer for {name} as models.config says "
                f"({got}): check that it reads this file, and read its log"
            )
