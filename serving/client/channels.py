"""Where servers are and whom to trust; gRPC channels to them, with retries and errors in plain words."""

import ipaddress
import json
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from genre_tf.errors import FailureError, InputError
from genre_tf.serving.client.calls import Call
from genre_tf.serving.client.messages import PREDICT, PredictRequest, PredictResponse

if TYPE_CHECKING:
    import ssl

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
# No server has this method: any server answers UNIMPLEMENTED at once, without work.
NO_METHOD = "/tensorflow.serving.PredictionService/Ping"
_REST_PORT = ("http1.x server", "Failed parsing HTTP/2")  # parts of gRPC's messages
_QUEUE_FULL = "batch scheduling queue"  # part of TensorFlow Serving's message
# Parts of the messages of TensorFlow Serving and of the embedded server.
_NO_THREAD = ("Threadpool Exhausted", "Concurrent RPC limit exceeded")

# A Predict changes nothing in the server and always gives the same answer, so sending it again is safe,
# however far the first attempt got. gRPC itself retries UNAVAILABLE: no connection, a server that is
# stopping, a full queue. It draws each wait at random, keeps to the deadline of the whole call, and stops
# retrying when too many calls fail, so that retries do not add to the load of an overloaded server.
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
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),  # a batch of texts may exceed gRPC's limit of 4 MiB
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # Reconnect to a restarted server within seconds; gRPC would wait up to two minutes between attempts.
    ("grpc.max_reconnect_backoff_ms", 2000),
]
# RESOURCE_EXHAUSTED says that no thread was free, or that a request is too large or memory is out: only the
# message tells which, and gRPC's own retries do not read it. Longest waits after an attempt, in seconds.
WAITS_S = (0.1, 0.2, 0.4, 0.0)
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # gRPC takes the first that is set
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def host_port(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def bare_host(host: str) -> str:
    """The host in the form that sockets take: an IPv6 address without the brackets of a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_url(address: str) -> bool:
    """Whether an address is that of a REST server; those of gRPC servers are HOST:PORT or gRPC's names."""
    return address.startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: localhost, 127.0.0.0/8, ::1, or the address of all its interfaces."""
    try:
        address = ipaddress.ip_address(bare_host(host))
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def read_pem(file: Path, kind: str) -> bytes:
    """Read a PEM file that must contain `kind`: `CERTIFICATE` or `PRIVATE KEY`."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    if b"-----BEGIN " not in text or f"{kind}-----".encode() not in text:
        raise InputError(f"{file} is not a PEM file with a {kind.lower()}")
    return text


def client_credentials(
    authority: Path | None, certificate: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials | None:
    """The TLS credentials of a gRPC client, from PEM files; None without an authority.

    `authority` signed the server's certificate; `certificate` (with its chain) and `key` are the client's
    own, for servers that require one.
    """
    trusted, own, secret = _pems(authority, certificate, key)
    return None if trusted is None else grpc.ssl_channel_credentials(trusted, secret, own)


def client_context(
    authority: Path | None, certificate: Path | None = None, key: Path | None = None
) -> "ssl.SSLContext | None":
    """The same for a REST client."""
    import ssl

    trusted, _, _ = _pems(authority, certificate, key)
    if trusted is None:
        return None
    context = ssl.create_default_context(cadata=trusted.decode("ascii", "replace"))
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            raise InputError(f"{certificate} and {key} cannot be used together ({error.reason})") from None
    return context


def _pems(authority: Path | None, certificate: Path | None, key: Path | None) -> list[bytes | None]:
    if (certificate is None) != (key is None) or (authority is None and key is not None):
        raise InputError("give --tls-cert and --tls-key together, and only with --tls-ca")
    files = (authority, "CERTIFICATE"), (certificate, "CERTIFICATE"), (key, "PRIVATE KEY")
    return [None if file is None else read_pem(file, kind) for file, kind in files]


def proxy_options(address: str) -> list[tuple[str, Any]]:
    """The option that keeps a channel to this machine away from the environment's proxy."""
    return [("grpc.enable_http_proxy", 0)] if all(map(is_loopback, _hosts(address))) else []


def open_channel(address: str, credentials: grpc.ChannelCredentials | None = None, api: Any = grpc) -> Any:
    """A channel to a server, of `grpc` or `grpc.aio`; without credentials it is not encrypted.

    It sends no keep-alive pings: TensorFlow Serving disconnects clients that ping often.
    """
    options = _OPTIONS + proxy_options(address)
    if credentials is None:
        return api.insecure_channel(address, options)
    return api.secure_channel(address, credentials, options)


def predict_method(channel: Any) -> Callable[..., Any]:
    """Predict of the server behind a channel."""
    return channel.unary_unary(PREDICT, PredictRequest.SerializeToString, PredictResponse.FromString)


def wait_s(error: Any, longest_s: float, ends: float, address: str, timeout_s: float) -> float:
    """Seconds before a request is sent again; raises the error in plain words if it should not be."""
    wait = random.uniform(0, longest_s)
    again = longest_s and _no_thread(error.code(), str(error.details()))
    if not again or time.monotonic() + wait >= ends:
        raise plain_error(error, address, timeout_s) from error
    return wait


def _no_thread(code: grpc.StatusCode, details: str) -> bool:
    exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return exhausted and any(part in details for part in _NO_THREAD)


def check_server(address: str, timeout_s: float, credentials: grpc.ChannelCredentials | None = None) -> None:
    """Check that a server answers, at once: a request would first be sent again, for about a second."""
    with open_channel(address, credentials) as channel:
        try:
            channel.unary_unary(NO_METHOD)(b"", timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise plain_error(error, address, timeout_s) from error


def check_target(address: str) -> None:
    """Check that an address is HOST:PORT."""
    host, _, port = address.rpartition(":")
    if is_url(address) or not host or not port.isdigit() or int(port) > 65535:
        raise InputError(f"address {address!r} is not HOST:PORT: give one such as 127.0.0.1:8500")


def check_timeout(timeout_s: float) -> None:
    """Check that a deadline is a number of seconds above 0."""
    if not 0 < timeout_s < float("inf"):
        raise InputError(f"the deadline must be a number of seconds above 0; got {timeout_s}")


class GrpcTransport:
    """Sends requests over one open gRPC channel."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        check_target(address)
        self._address = address
        self._channel = open_channel(address, credentials)
        self._predict = predict_method(self._channel)

    def send(self, call: Call[Any], model: str, timeout_s: float) -> Any:
        """The PredictResponse to a call."""
        request, ends = call.request(model), time.monotonic() + timeout_s
        waits = iter(WAITS_S)
        while True:
            try:
                return self._predict(request, timeout=ends - time.monotonic())
            except grpc.RpcError as error:
                time.sleep(wait_s(error, next(waits), ends, self._address, timeout_s))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def plain_error(error: Any, address: str, timeout_s: float) -> Exception:
    """The error that says what to do after an RpcError: InputError if the server refused the request."""
    return plain_failure(error.code(), str(error.details()), address, timeout_s, _proxy(address))


def plain_failure(
    code: grpc.StatusCode, details: str, address: str, timeout_s: float, proxy: str | None = None
) -> Exception:
    """The error of a status, over gRPC or REST; `proxy` is the environment variable of the proxy, if any."""
    through, unset = (f" through the proxy in {proxy}", f", or unset {proxy}") if proxy else ("", "")
    if code in _REFUSALS:
        return InputError(f"the server at {address} refused the request: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return FailureError(
            f"no answer from {address} within {timeout_s:g} s{through}: wait longer, or ask for less{unset}"
        )
    if code is grpc.StatusCode.UNAVAILABLE and any(part in details for part in _REST_PORT):
        return FailureError(f"{address} is a REST port, not a gRPC port: add --rest, or give the gRPC port")
    if code is grpc.StatusCode.UNAVAILABLE and _QUEUE_FULL in details:
        return FailureError(
            f"the server at {address} is overloaded, its queue is full: ask less often, or run more servers"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return FailureError(
            f"no server answers at {address}{through} ({details.rpartition(': ')[2]}): start one with "
            f"`genre serve MODELS`, or give its address{unset}"
        )
    if _no_thread(code, details):
        return FailureError(
            f"the server at {address} has no free thread ({details}): ask again, or start "
            "tensorflow_model_server with a higher --grpc_max_threads"
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return FailureError(f"the request is too large for the server at {address} ({details}): ask for less")
    return FailureError(f"the server at {address} failed ({code.name}): {details}")


def _proxy(address: str) -> str | None:
    """The environment variable whose proxy gRPC uses for an address."""
    name = next((name for name in _PROXIES if name in os.environ), None)
    if name is None or not os.environ[name] or proxy_options(address):
        return None
    # Only errors need it, and it imports much; typeshed does not list it.
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    excepted = next((os.environ[name] for name in _EXCEPTIONS if name in os.environ), "")
    direct = all(proxy_bypass_environment(host, {"no": excepted}) for host in _hosts(address))
    return None if direct else name


def _hosts(address: str) -> list[str]:
    """The hosts of HOST:PORT, or of a gRPC name such as dns:///HOST:PORT or ipv4:HOST:PORT,HOST:PORT."""
    bare = re.sub(r"^(?:dns:(?://[^/]*/)?|ipv[46]:)", "", address)
    return [bare_host(part.rpartition(":")[0]) for part in bare.split(",")]
