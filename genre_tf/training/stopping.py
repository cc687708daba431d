"""Stopping from outside: a signal takes effect at the end of a step, when everything can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_HEARD = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether a stop was requested.

    Attributes:
        signal: the first signal received, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGTERM (sent by preemptible machines and Kubernetes) and Ctrl-C; a second signal stops at once.

    Outside the main thread no signal can be caught, and nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[signal.Signals, Any] = {}

    def hear(number: int, _: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        _restore(before)

    before.update({each: signal.signal(each, hear) for each in _HEARD})
    try:
        yield request
    finally:
        _restore(before)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for each, handler in handlers.items():
        signal.signal(each, handler)
