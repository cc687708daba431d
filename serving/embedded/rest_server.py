"""The HTTP server of the REST API: keep-alive, size and time limits, and errors that reach the client."""

import contextlib
import io
import logging
import socket
import threading
import time
import zlib
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from genre_tf.errors import InputError
from genre_tf.serving.client.addresses import bare_host, host_port
from genre_tf.serving.embedded.in_flight import InFlight
from genre_tf.serving.embedded.json_writer import error_body
from genre_tf.serving.embedded.rest_api import Answer, RestApi
from genre_tf.serving.embedded.statuses import ServingError
from genre_tf.serving.embedded.timed_reading import TimedReader

_log = logging.getLogger(__name__)
_JSON = "application/json"
_LINGER_S = 1.0  # how long a refused client may go on sending before its connection is closed


@dataclass(frozen=True, kw_only=True)
class RestLimits:
    """Limits for each client. http.server adds its own: lines of 64 kB and 100 headers."""

    body_bytes: int = 64 << 20  # also once inflated; far above any real request, far below a laptop's memory
    connections: int = 1000  # each takes a thread, which costs little while it waits
    idle_s: float = 60.0  # between requests of a connection; load balancers wait about as long
    request_s: float = 30.0  # from the first byte of a request to its last; enough for 64 MB at 20 Mbit/s
    answer_s: float = 30.0  # for a client to receive an answer


class RestServer(ThreadingHTTPServer):
    """Serves a RestApi with one thread per connection.

    Args:
        api: answers the requests.
        host: address to listen on.
        port: port to listen on; 0 picks a free one.
        limits: size and time limits.
        in_flight: counts the running requests.

    Raises:
        InputError: the server cannot listen on this address.
    """

    daemon_threads = True  # an idle keep-alive connection must not delay the shutdown
    request_queue_size = 128

    def __init__(self, api: RestApi, host: str, port: int, limits: RestLimits, in_flight: InFlight) -> None:
        self.api = api
        self.limits = limits
        self.in_flight = in_flight
        self._free = threading.Semaphore(limits.connections)
        bare = bare_host(host)
        if ":" in bare:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((bare, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"cannot listen on {host_port(host, port)} (REST): {reason}; "
                "choose another port with --rest-port, or 0 for a free one"
            ) from error

    def start(self) -> None:
        """Accept connections in a background thread."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Stop accepting connections."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread, or close it if too many are open."""
        if not self._free.acquire(blocking=False):
            _log.warning(
                "connection from %s closed: %d connections are open, the limit",
                client_address,
                self.limits.connections,
            )
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log at debug level only, because clients may hang up at any time."""
        _log.debug("connection from %s ended", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        limits = self.server.limits
        self._reader = TimedReader(self.connection, limits.idle_s, limits.request_s)
        self.rfile = io.BufferedReader(self._reader)  # type: ignore[assignment]
        self._unread = False

    def finish(self) -> None:
        """Close the connection; before that, discard for a while what a refused client still sends.

        Closing with unread bytes would reset the connection, and the client might never see the error.
        """
        if self._unread:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                deadline = time.monotonic() + _LINGER_S
                while (left_s := deadline - time.monotonic()) > 0:
                    self.connection.settimeout(left_s)
                    if not self.connection.recv(1 << 16):
                        break
        super().finish()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._unread = True
        super().send_error(code, message, explain)

    def handle_one_request(self) -> None:
        self._reader.next_request()
        super().handle_one_request()

    def _respond(self) -> None:
        body, refusal = self._read_body()
        if refusal is not None:
            self._send(refusal)
            return
        try:
            with self.server.in_flight.request():
                self._send(self._answer(body))
        except ServingError as error:
            self._send(self._refused(error.http_status, error.message))

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = _respond

    def _answer(self, body: bytes) -> Answer:
        try:
            return self.server.api.answer(self.command, self.path, body, self.headers.get("Origin", ""))
        except Exception:
            _log.exception("%s %s failed", self.command, self.path)
            return Answer(500, _JSON, error_body("Internal error of the embedded server"))

    def _read_body(self) -> tuple[bytes, Answer | None]:
        """Return the body, inflated if the client compressed it, or an answer that refuses it."""
        limit = self.server.limits.body_bytes
        encoding = ", ".join(self.headers.get_all("Content-Encoding", [])).strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            return b"", self._refused(415, f"Content-Encoding must be gzip or absent; got {encoding[:40]!r}")
        sent, refusal = self._read_sent(limit)
        if refusal is None and sent and encoding.endswith("gzip"):
            return _inflated(sent, limit)
        return sent, refusal

    def _read_sent(self, limit: int) -> tuple[bytes, Answer | None]:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks(limit)
        length = self.headers.get("Content-Length", "0").strip()
        if not (length.isascii() and length.isdigit()):
            return b"", self._refused(400, f"Content-Length must be a number; got {length!r}")
        if len(length) > 18 or int(length) > limit:
            return b"", self._refused(413, f"The body has {length} bytes; the limit is {limit}")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return b"", self._refused(400, f"The body ended after {len(body)} of {length} bytes")
        return body, None

    def _read_chunks(self, limit: int) -> tuple[bytes, Answer | None]:
        body = bytearray()
        while True:
            head = self.rfile.readline(1024).split(b";")[0].strip()
            try:
                size = int(head, 16)
            except ValueError:
                return b"", self._refused(400, f"Chunk size must be a hexadecimal number; got {head[:20]!r}")
            if size < 0 or len(body) + size > limit:
                return b"", self._refused(413, f"The body is larger than the limit of {limit} bytes")
            body += self.rfile.read(size)
            if size and self.rfile.readline(3) != b"\r\n":
                return b"", self._refused(400, "A chunk does not end after its declared size")
            if size == 0:
                while self.rfile.readline(65537).strip():
                    pass  # trailers
                return bytes(body), None

    def _refused(self, status: int, message: str) -> Answer:
        self.close_connection = self._unread = True  # the rest of the body stays unread
        return _refusal(status, message)

    def _send(self, answer: Answer) -> None:
        """Send head and body in one call: separately, delayed acknowledgements would cost 40 ms."""
        lines = [
            f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('Unknown',))[0]}",
            f"Server: {self.version_string()}",
            f"Date: {self.date_time_string()}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
        ]
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
        self.connection.settimeout(self.server.limits.answer_s)
        self.connection.sendall(head if self.command == "HEAD" else head + answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """Log requests at debug level only; TensorFlow Serving does not log them either."""
        _log.debug(format, *args)

    def version_string(self) -> str:
        """Return the value of the Server header."""
        return "genre_tf embedded server"


def _inflated(sent: bytes, limit: int) -> tuple[bytes, Answer | None]:
    """Inflate a gzip body; stop one byte above the limit, because a few kB can inflate to gigabytes."""
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # 16: gzip's header and checksum
    try:
        body = stream.decompress(sent, limit + 1)
    except zlib.error as error:
        return b"", _refusal(400, f"The body is not gzip, as its Content-Encoding says: {error}")
    if len(body) > limit:
        return b"", _refusal(413, f"The body inflates to more than the limit of {limit} bytes")
    if not stream.eof or stream.unused_data:
        return b"", _refusal(400, "The body must be one whole gzip stream: it is cut short, or more follows")
    return body, None


def _refusal(status: int, message: str) -> Answer:
    return Answer(status, _JSON, error_body(message))
