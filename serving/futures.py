"""Futures of threads and of event loops, made done together: one wake-up of a loop for a whole batch."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

AnyFuture = Future[Any] | asyncio.Future[Any]


def settle(outcomes: Iterable[tuple[AnyFuture, Any]]) -> None:
    """Give futures their values, from any thread.

    Args:
        outcomes: futures, each with its value, or with the exception that stands for it.
    """
    of_loops: dict[asyncio.AbstractEventLoop, list[tuple[AnyFuture, Any]]] = defaultdict(list)
    for future, value in outcomes:
        if isinstance(future, asyncio.Future):
            of_loops[future.get_loop()].append((future, value))
        else:
            _set(future, value)
    for loop, pairs in of_loops.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(_set_all, pairs)


async def settled(futures: Sequence[asyncio.Future[Any]]) -> None:
    """Wait until all futures are done, cancelled or not.

    What runs goes on when its client hangs up, and the version that runs it must not be unloaded meanwhile.
    """
    try:
        await asyncio.wait(futures)
    except asyncio.CancelledError:
        await asyncio.wait(futures)
        raise
    finally:
        for future in futures:
            if future.done() and not future.cancelled():
                future.exception()  # seen: of several that fail, one is raised, and asyncio logs the others


def _set_all(outcomes: Iterable[tuple[AnyFuture, Any]]) -> None:
    for future, value in outcomes:
        _set(future, value)


def _set(future: AnyFuture, value: Any) -> None:
    if future.done():
        return
    if isinstance(value, BaseException):
        future.set_exception(value)
    else:
        future.set_result(value)
