"""Connections of uvicorn that no client can keep or fill: for every HTTP port of this package."""

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LONG = "the request line and the headers are too long"
_PIPELINED = 100  # requests of a connection that wait for the answers to those before
_REFUSED = 100  # so many connections beyond the limit are told so; further ones are closed at once


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """Limits for each connection, and of their number."""

    head_bytes: int = 64 << 10  # of the request line and the headers, and of what follows a body
    connections: int = 800  # further ones get status 503; below 1,024 files, the usual limit of a process
    head_s: float = 10.0  # for the request line and the headers to arrive
    answer_s: float = 30.0  # for clients to take an answer


def limited_connections(limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """uvicorn's connections, closed if a head is too long or late, or if an answer is not taken."""

    class Connection(HttpToolsProtocol):
        _unparsed = 0  # bytes since the last head that was complete, or the last part of a body
        _late: asyncio.TimerHandle | None = None  # while a head is awaited
        _untaken: asyncio.TimerHandle | None = None  # while an answer waits for its client

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # so that `pause_writing` hears of every such answer
            self._late = self.loop.call_later(limits.head_s, transport.abort)
            if len(self.connections) > limits.connections + _REFUSED:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for timer in (self._late, self._untaken):
                if timer is not None:
                    timer.cancel()

        def data_received(self, data: bytes) -> None:
            self._unparsed += len(data)
            super().data_received(data)
            if self._unparsed > limits.head_bytes:
                self._refuse(431, _TOO_LONG)
            if self._late is None and (self.cycle is None or self.cycle.response_complete):
                self._late = self.loop.call_later(limits.head_s, self.transport.abort)

        def on_headers_complete(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None
            sizes = [len(name) + len(value) for name, value in self.headers]
            if len(self.url) + sum(sizes) > limits.head_bytes:
                self._refuse(431, _TOO_LONG)
            elif len(self.pipeline) >= _PIPELINED:
                self._refuse(429, f"more than {_PIPELINED} requests wait on this connection")
            if self.transport.is_closing():
                raise ValueError  # the parser stops
            self._unparsed = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._unparsed = 0
            super().on_body(body)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._untaken = self.loop.call_later(limits.answer_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._untaken is not None:
                self._untaken.cancel()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, msg)

        def _refuse(self, status: int, text: str) -> None:
            if not self.transport.is_closing():
                body = json.dumps({"error": text})
                head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
                head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                self.transport.write((head + body).encode())
                self.transport.close()

    return Connection
