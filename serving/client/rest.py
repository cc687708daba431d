"""Requests over TensorFlow Serving's REST API, with the errors of gRPC."""

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import grpc

from genre_tf.errors import FailureError, InputError
from genre_tf.serving.client.calls import Call
from genre_tf.serving.client.channels import is_loopback, plain_failure

MAX_ANSWER_BYTES = 256 << 20
"""256 MiB, the largest answer that is read: more than the vectors of 50,000 texts."""

# The same as `ToHTTPStatusCode` in TensorFlow Serving's http_server.cc.
HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

_RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_WAITS_S = (0.1, 0.3, 0.9)  # before each further attempt; `channels` says why sending again is safe
_CODES: dict[int, grpc.StatusCode] = {status: code for code, status in reversed(HTTP_STATUS.items())}
_CODES[HTTPStatus.REQUEST_ENTITY_TOO_LARGE] = grpc.StatusCode.RESOURCE_EXHAUSTED


class _AnyStatus(urllib.request.HTTPErrorProcessor):
    """Every status is an answer; no redirect is followed: a POST would become a GET without its body."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


class RestTransport:
    """Sends requests to a REST port, each over a connection of its own; a path of the URL goes before `/v1`.

    Raises:
        InputError: the URL has no host, no valid port or a query, or there is a context for http://.
    """

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        try:
            parts = urlsplit(url)
            valid = parts.hostname and parts.port != 0 and not parts.query and not parts.fragment
        except ValueError:  # a port that is not a number, or a broken IPv6 address
            valid = False
        if not valid or len(url.split()) != 1:
            raise InputError(
                f"address {url!r} is not that of a REST port: give one such as http://127.0.0.1:8501"
            )
        if context is not None and parts.scheme != "https":
            raise InputError(f"{url} is not encrypted: give an address with https://, or no TLS files")
        self._address, self._base = parts.netloc, url.rstrip("/")
        direct = is_loopback(str(parts.hostname)) or urllib.request.proxy_bypass(str(parts.hostname))
        proxies = {} if direct else urllib.request.getproxies()
        self._proxy = f"{parts.scheme}_proxy" if parts.scheme in proxies else None
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context), _AnyStatus
        )

    def send(self, call: Call[Any], model: str, timeout_s: float) -> Any:
        """The JSON document with which the server answers a call."""
        body = json.dumps(call.document(), allow_nan=False).encode()
        url = f"{self._base}/v1/models/{quote(model, safe='')}:predict"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        deadline = time.monotonic() + timeout_s
        failure = partial(plain_failure, address=self._address, timeout_s=timeout_s, proxy=self._proxy)
        for wait in (*_WAITS_S, timeout_s):
            try:
                status, document = self._ask(request, deadline)
            except (OSError, http.client.HTTPException) as error:
                connecting = isinstance(error, urllib.error.URLError)
                cause: Any = getattr(error, "reason", error) if connecting else error
                if isinstance(cause, TimeoutError):
                    raise failure(grpc.StatusCode.DEADLINE_EXCEEDED, "") from error
                if connecting:
                    reason = getattr(cause, "verify_message", "") or getattr(cause, "strerror", "")
                    raise failure(grpc.StatusCode.UNAVAILABLE, reason or str(cause)) from error
                raise FailureError(
                    f"{self._address} is not a REST port ({type(error).__name__}): give the REST port, or "
                    "leave out --rest to ask over gRPC"
                ) from error
            if status not in _RETRIED or time.monotonic() + wait >= deadline:
                break
            time.sleep(wait)
        if status == HTTPStatus.OK and "outputs" in document:
            return document
        if isinstance(document.get("error"), str):
            raise failure(_CODES.get(status, grpc.StatusCode.UNKNOWN), document["error"])
        raise FailureError(
            f"{self._address} does not answer as TensorFlow Serving does (HTTP status {status}): give the "
            "address of its REST port"
        )

    def close(self) -> None:
        """Nothing stays open between requests."""

    def _ask(self, request: urllib.request.Request, deadline: float) -> tuple[int, dict[str, Any]]:
        """Status and document of one answer; the document is empty if it is not a JSON object."""
        with self._opener.open(request, timeout=max(deadline - time.monotonic(), 1e-3)) as answer:
            parts, size = [], 0
            while part := answer.read1(1 << 20):
                parts.append(part)
                size += len(part)
                if size > MAX_ANSWER_BYTES:
                    limit = f"{MAX_ANSWER_BYTES >> 20} MiB"
                    raise FailureError(f"the answer of {self._address} is over {limit}: ask for less")
                if time.monotonic() > deadline:
                    raise TimeoutError
            try:
                document = json.loads(b"".join(parts))
            except (ValueError, RecursionError):
                document = None
            return answer.status, document if isinstance(document, dict) else {}
