"""Reading from a client who may be slow: silence has an end, and so has a request."""

import io
import socket
import time


class TimedReader(io.RawIOBase):
    """The bytes of a connection; each request has a time to arrive in, however its bytes trickle.

    Args:
        connection: where they come from.
        idle_s: how long a connection may be silent between requests.
        request_s: how long a request may take from its first byte to its last.

    Raises:
        TimeoutError: while reading, where a time is over.
    """

    def __init__(self, connection: socket.socket, idle_s: float, request_s: float) -> None:
        self._connection = connection
        self._idle_s = idle_s
        self._request_s = request_s
        self._deadline: float | None = None

    def next_request(self) -> None:
        """Wait for the next request from now on: its time begins with its first byte."""
        self._deadline = None

    def readable(self) -> bool:
        """Always, as `io.BufferedReader` wants to know."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read what is there, or wait for it as long as the times allow."""
        if self._deadline is None:
            self._connection.settimeout(self._idle_s)
            count = self._connection.recv_into(buffer)
            self._deadline = time.monotonic() + self._request_s
            return count
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long to arrive")
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)
