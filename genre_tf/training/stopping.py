"""Stopping from outside: a signal is heard at the end of a step, when everything can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_HEARD = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether somebody asked for the end.

    Attributes:
        signal: the first one heard, or None.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Hear SIGTERM (how preemptible machines and Kubernetes say it) and Ctrl-C; a second one acts at once.

    In a thread other than the main one nothing can be heard, and nothing changes.
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
