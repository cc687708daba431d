"""TensorFlow Serving's REST API, on Starlette and uvicorn; its requests run in threads, as those of gRPC."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import uvicorn
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import get_model_metadata_pb2, regression_pb2

from genre_tf.errors import InputError
from genre_tf.serving.client.channels import bare_host, host_port
from genre_tf.serving.client.rest import HTTP_STATUS
from genre_tf.serving.connections import ConnectionLimits, limited_connections
from genre_tf.serving.embedded.errors import ServingError
from genre_tf.serving.embedded.grpc_server import SIGNATURES, model_metadata, model_status
from genre_tf.serving.embedded.manager import ModelManager, ModelSpec
from genre_tf.serving.embedded.metrics import ServerMetrics
from genre_tf.serving.embedded.rest_values import (
    parse_document,
    read_examples,
    read_tensors,
    shortest_floats,
    write_columns,
    write_json,
    write_rows,
)
from genre_tf.serving.embedded.servable import answer_regress, find_signature, predict

_JSON = "application/json"
_REQUEST = re.compile(
    "/v1/models/(?P<model>[^/:]+)(/versions/(?P<version>[0-9]{1,18})|/labels/(?P<label>[^/:]+))?"
    "(?P<call>:[a-z]+|/metadata)?"
)
_LINGER_S = 1.0  # how long a refused client may go on sending before its connection is closed


@dataclass(frozen=True, kw_only=True)
class RestLimits(ConnectionLimits):
    """Limits for each client."""

    body_bytes: int = 64 << 20  # also once inflated; far above any real request, far below a laptop's memory
    idle_s: int = 60  # between requests of a connection; load balancers wait about as long
    request_s: float = 30.0  # for a body to arrive; enough for 64 MB at 20 Mbit/s
    stop_s: int = 5  # for clients to take their last answers when the server stops


class RestServer:
    """The REST API, bound to a port (0: any free one) but not started; `threads` requests run at a time."""

    def __init__(
        self,
        manager: ModelManager,
        metrics: ServerMetrics,
        *,
        host: str,
        port: int,
        threads: int,
        metrics_path: str | None = None,  # of the page for Prometheus
        limits: RestLimits | None = None,
    ) -> None:
        self._manager, self._metrics = manager, metrics
        self._limits = limits or RestLimits()
        self._pool = ThreadPoolExecutor(threads, "rest")
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((bare_host(host), port), family=family, backlog=128)
        except (OSError, OverflowError) as error:
            reason = str(getattr(error, "strerror", None) or error).split(" (while")[0]  # the address, again
            raise InputError(
                f"cannot listen on {host_port(host, port)} (REST): {reason}; "
                "choose another port with --rest-port, or 0 for a free one"
            ) from error
        # Connections inherit it. uvicorn sends head and body in two parts: the second would wait 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            self._app(metrics_path),
            loop="asyncio",
            http=limited_connections(self._limits),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # TensorFlow Serving does not log requests either
            access_log=False,
            server_header=False,
            limit_concurrency=self._limits.connections,
            timeout_keep_alive=self._limits.idle_s,
            timeout_graceful_shutdown=self._limits.stop_s,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Answer in a background thread."""
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="rest", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop accepting connections, and close those that are open."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(self._limits.stop_s + 5)  # a daemon: it cannot keep the process
        self._socket.close()
        self._pool.shutdown(wait=False)

    def _app(self, metrics_path: str | None) -> Starlette:
        routes = [Route("/{path:path}", self._answer, methods=["GET", "POST"])]
        if metrics_path is not None:
            page = self._metrics.page
            routes.insert(0, Route(metrics_path, lambda request: Response(page(), media_type="text/plain")))
        return Starlette(
            routes=routes,
            exception_handlers={
                HTTPException: _refused,
                ServingError: lambda request, error: _error(HTTP_STATUS[error.code], error.message),
                ClientDisconnect: lambda request, error: _error(400, "the body is not complete"),
                Exception: lambda request, error: _error(500, "internal error of the embedded server"),
            },
        )

    async def _answer(self, request: Request) -> Response:
        asked = _REQUEST.fullmatch(request.scope["path"])
        if asked is None or request.url.query:
            raise HTTPException(404)
        model, version, label, call = asked.group("model", "version", "label", "call")
        posted = {":predict": self._predict, ":regress": self._regress, ":classify": _unimplemented}
        read = {None: self._status, "/metadata": self._metadata}
        answer = (posted if request.method == "POST" else read).get(call)
        if answer is None:
            raise HTTPException(404)
        with self._metrics.counted(model, call[1:] if request.method == "POST" else "", "REST"):
            spec = ModelSpec(model, int(version) if version else None, label)
            body, loop = await self._body(request), asyncio.get_running_loop()
            content = await loop.run_in_executor(self._pool, answer, spec, body)
        return Response(content, media_type=_JSON)

    async def _body(self, request: Request) -> bytes:
        """The body of a request, inflated if the client compressed it."""
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise HTTPException(415, f"Content-Encoding must be gzip or absent; got {encoding!r}")
        inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if encoding == "gzip" else None
        body, limit = bytearray(), self._limits.body_bytes
        parts, announced = request.stream(), int(request.headers.get("content-length", 0))
        try:
            async with asyncio.timeout(self._limits.request_s):
                while announced <= limit >= len(body) and (part := await anext(parts, b"")):
                    # One byte above the limit is enough to know: a few kB can inflate to gigabytes.
                    body += inflate.decompress(part, limit + 1 - len(body)) if inflate else part
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {self._limits.request_s:g} s") from None
        except zlib.error as error:
            raise HTTPException(400, f"the body is not gzip, as its Content-Encoding says: {error}") from None
        if announced > limit or len(body) > limit:
            # A connection that is closed with unread bytes may lose the answer: read on for a while.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    async for _ in parts:
                        pass
            raise HTTPException(413, f"the body is larger than the limit of {limit} bytes")
        if body and inflate and (not inflate.eof or inflate.unused_data):
            raise HTTPException(
                400, "the body must be one whole gzip stream: it is cut short, or more follows"
            )
        return bytes(body)

    def _predict(self, spec: ModelSpec, body: bytes) -> bytes:
        document = parse_document(body)
        with self._manager.use(spec) as servable:
            _, signature = find_signature(servable, document.get("signature_name", ""))
            tensors, in_rows = read_tensors(document, signature.inputs)
            outputs = predict(servable, signature, tensors)
        return write_rows(outputs) if in_rows else write_columns(outputs)

    def _regress(self, spec: ModelSpec, body: bytes) -> bytes:
        document = parse_document(body)
        request = regression_pb2.RegressionRequest()
        request.model_spec.signature_name = document.get("signature_name", "")
        request.input.example_list.examples.extend(read_examples(document))
        with self._manager.use(spec) as servable:
            result = answer_regress(servable, request).result
        return write_json(
            {"results": shortest_floats(np.array([one.value for one in result.regressions], np.float32))}
        )

    def _status(self, spec: ModelSpec, body: bytes) -> bytes:
        return write_json(_as_dict(model_status(self._manager, spec)))

    def _metadata(self, spec: ModelSpec, body: bytes) -> bytes:
        response = model_metadata(self._manager, spec)
        found = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[SIGNATURES].Unpack(found)
        metadata = {SIGNATURES: _as_dict(found)}
        return write_json({"model_spec": _as_dict(response.model_spec), "metadata": metadata})


def _unimplemented(spec: ModelSpec, body: bytes) -> bytes:
    raise ServingError(grpc.StatusCode.UNIMPLEMENTED, "the embedded server has Predict and Regress only")


def _refused(request: Request, error: Exception) -> Response:
    """The answer to what fits no route, or whose body was refused."""
    status, text = getattr(error, "status_code", 400), str(getattr(error, "detail", ""))
    if status in (404, 405):
        known = request.url.path.startswith("/v1/")
        status = 400 if known else 404  # as TensorFlow Serving
        text = f"{request.method} {request.url.path} is not a request of TensorFlow Serving's REST API"
    answer = _error(status, text)
    answer.headers["Connection"] = "close" if status in (408, 413, 415) else "keep-alive"
    return answer


def _error(status: int, text: str) -> Response:
    return Response(json.dumps({"error": text}), status, media_type=_JSON)


def _as_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
