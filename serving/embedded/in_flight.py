"""Counts running requests, so that a server can stop after the last one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from genre_tf.serving.embedded.statuses import ServingError

STOPPING = "The server is shutting down"


class InFlight:
    """Counts requests of all protocols, and refuses new ones once the server is stopping."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._draining = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request while the context is open.

        Raises:
            ServingError: UNAVAILABLE, as the server is stopping; clients may retry elsewhere.
        """
        with self._changed:
            if self._draining:
                raise ServingError(grpc.StatusCode.UNAVAILABLE, STOPPING)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                if self._draining and not self._running:
                    self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new requests from now on, and wait for running ones.

        Args:
            timeout_s: maximum wait in seconds.

        Returns:
            Whether all requests have ended.
        """
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._running, timeout_s)
