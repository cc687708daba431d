"""The HTTP server behind the REST API: keep-alive, limits, an end that lets answers out."""

import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from genre_tf.errors import InputError
from genre_tf.serving.json_writer import error_body
from genre_tf.serving.rest_api import Answer, RestApi

_log = logging.getLogger(__name__)
_JSON = "application/json"


class RestServer(ThreadingHTTPServer):
    """Serves a RestApi, one thread a connection.

    Args:
        api: what answers.
        host: the address to listen at.
        port: the port, 0 for a free one.
        max_body_bytes: the largest request.

    Raises:
        InputError: the port cannot be had.
    """

    daemon_threads = True  # an idle keep-alive connection may not hold up the end
    request_queue_size = 128

    def __init__(self, api: RestApi, host: str, port: int, max_body_bytes: int) -> None:
        self.api = api
        self.max_body_bytes = max_body_bytes
        self._idle = threading.Condition()
        self._busy = 0
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"port {port} of {host} cannot be had for REST ({reason}): "
                "choose another with --rest-port, or 0 for a free one"
            ) from error

    def start(self) -> None:
        """Accept connections in a thread of their own."""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Accept nothing more, and give requests that run `grace_s` seconds to end."""
        self.shutdown()
        self.server_close()
        deadline = time.monotonic() + grace_s
        with self._idle:
            while self._busy and time.monotonic() < deadline:
                self._idle.wait(deadline - time.monotonic())

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""
        _log.debug("connection from %s ended", client_address, exc_info=True)

    def count(self, change: int) -> None:
        """Keep the number of requests that run."""
        with self._idle:
            self._busy += change
            self._idle.notify_all()


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be silent
    wbufsize = -1  # head and body leave together: apart, delayed acknowledgements cost 40 ms
    disable_nagle_algorithm = True

    def _respond(self) -> None:
        self.server.count(1)
        try:
            body, refusal = self._read_body()
            if refusal is None:
                try:
                    refusal = self.server.api.answer(
                        self.command, self.path, body, self.headers.get("Origin", "")
                    )
                except Exception:
                    _log.exception("%s %s failed", self.command, self.path)
                    refusal = Answer(500, _JSON, error_body("Internal error of the embedded server"))
            self._send(refusal)
        finally:
            self.server.count(-1)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = _respond

    def _read_body(self) -> tuple[bytes, Answer | None]:
        """The body, or the answer that refuses it."""
        limit = self.server.max_body_bytes
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks(limit)
        length = self.headers.get("Content-Length", "0").strip()
        if not (length.isascii() and length.isdigit()):
            return b"", self._refused(400, f"Content-Length is no number: {length!r}")
        if len(length) > 18 or int(length) > limit:
            return b"", self._refused(413, f"The body has {length} bytes, and {limit} is the limit")
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
                return b"", self._refused(400, f"Chunk size is no number: {head[:20]!r}")
            if size < 0 or len(body) + size > limit:
                return b"", self._refused(413, f"The body has more than {limit} bytes, which is the limit")
            body += self.rfile.read(size)
            if size and self.rfile.readline(3) != b"\r\n":
                return b"", self._refused(400, "A chunk does not end where it says")
            if size == 0:
                while self.rfile.readline(65537).strip():
                    pass  # trailers
                return bytes(body), None

    def _refused(self, status: int, message: str) -> Answer:
        self.close_connection = True  # the rest of the body is still to come, and is not wanted
        return Answer(status, _JSON, error_body(message))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged, as TensorFlow Serving does not."""
        _log.debug(format, *args)

    def version_string(self) -> str:
        """The Server header."""
        return "genre_tf embedded server"
