"""Read from a client that may be slow, with a time limit for silence and one for a whole request."""

import io
import socket
import time


class TimedReader(io.RawIOBase):
    """Reads from a connection; each request has a time limit, even if it arrives byte by byte.

    Args:
        connection: connection to read from.
        idle_s: how long a connection may be silent between requests.
        request_s: how long a request may take from its first byte to its last.

    Raises:
        TimeoutError: while reading, if a time limit is exceeded.
    """

    def __init__(self, connection: socket.socket, idle_s: float, request_s: float) -> None:
        self._connection = connection
        self._idle_s = idle_s
        self._request_s = request_s
        self._deadline: float | None = None

    def next_request(self) -> None:
        """Start over for the next request: its time begins with its first byte."""
        self._deadline = None

    def readable(self) -> bool:
        """Return True, as `io.BufferedReader` requires."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read the available bytes; if there are none, wait for them within the time limits."""
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
