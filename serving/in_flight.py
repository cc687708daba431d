"""The requests that run: counted, so that a server can end when the last of them has."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from genre_tf.serving.statuses import ServingError

STOPPING = "The server is shutting down"


class InFlight:
    """Counts requests of all protocols, and refuses new ones once the server is told to end."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._draining = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request while the context is open.

        Raises:
            ServingError: UNAVAILABLE, which clients may send elsewhere, since the server is ending.
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
        """Refuse new requests from now on, and wait for those that run.

        Args:
            timeout_s: how long to wait at the most.

        Returns:
            Whether all have ended.
        """
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not self._running, timeout_s)
