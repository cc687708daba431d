"""The HTTP side: routes, and what every request passes through."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from genre_tf.errors import FailureError
from genre_tf.serving.app import checks
from genre_tf.serving.app.access import (
    SECURITY_HEADERS,
    SESSION,
    Editors,
    Limits,
    Rate,
    is_own_host,
)
from genre_tf.serving.app.checks import RefusedError
from genre_tf.serving.app.feed import Feeds, record_events
from genre_tf.serving.app.observing import LOGGER, hashed
from genre_tf.serving.app.state import State
from genre_tf.serving.app.storage import Writes
from genre_tf.serving.app.texts import STATUSES, Desk
from genre_tf.serving.app.tracing import Step, Tracing

_MOST_ITEMS = 100
_MOST_KEPT = 10_000  # events and impressions of a reader that are told at a time
_TO_ERASE = (
    "DELETE FROM events WHERE reader = :reader",
    "DELETE FROM impressions WHERE reader = :reader",
    "DELETE FROM texts WHERE reader = :reader AND (status = 'waiting' OR question IS NOT NULL)",
    "UPDATE texts SET reader = NULL WHERE reader = :reader",
    "DELETE FROM readers WHERE reader = :reader",
)

Handler = Callable[[Request], Awaitable[Response]]


def answer(content: Any, status: int = 200) -> Response:
    """A JSON document, in ASCII: every text survives, also one that is no valid Unicode."""
    return Response(json.dumps(content), status, media_type="application/json")


class Web:
    """The routes of the app."""

    def __init__(
        self,
        state: State,
        editors: Editors,
        limits: Limits,
        shadow: str = "",
        hosts: frozenset[str] = frozenset(),
    ) -> None:
        self.state, self.editors, self.limits, self.hosts = state, editors, limits, hosts
        self.feeds, self.desk = Feeds(state, shadow), Desk(state)
        self.writing = Rate(limits.write_rate)
        self.wrong = Rate(limits.wrong_tokens)
        self.rates = {"client": Rate(limits.rate), "all": Rate(limits.rate_of_all)}

    def routes(self) -> list[BaseRoute]:
        """Routes of programs; pages have theirs in `pages`."""
        return [
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/v1/readers/{reader}/feed", self.feed),
            Route("/v1/readers/{reader}", self.reader, methods=["GET"]),
            Route("/v1/readers/{reader}", self.erase, methods=["DELETE"]),
            Route("/v1/events", self.events, methods=["POST"]),
            Route("/v1/write", self.write, methods=["POST"]),
            Route("/v1/ask", self.ask, methods=["POST"]),
            Route("/v1/reviews", self.reviews, methods=["GET"]),
            Route("/v1/reviews/{id}", self.review, methods=["GET"]),
            Route("/v1/reviews/{id}", self.decide, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        """200 while the database answers: without a model server feeds show what is popular."""
        found = await self.state.run(self.state.health)
        word = "ok" if all(found.values()) else "degraded" if found["database"] else "down"
        return answer({"status": word, **found}, 200 if found["database"] else 503)

    async def metrics(self, request: Request) -> Response:
        """The page for Prometheus."""
        return Response(self.state.metrics.page(), media_type="text/plain; version=0.0.4")

    async def feed(self, request: Request) -> Response:
        """A reader's feed; `k` is its length."""
        given = request.query_params.get("k", "10")
        if not (given.isascii() and given.isdecimal() and len(given) < 5 and 1 <= int(given) <= _MOST_ITEMS):
            error = f"k must be a whole number from 1 to {_MOST_ITEMS}; got {given[:20]!r}"
            raise RefusedError(422, error, field="k")
        feed = await self.state.run(self.feeds.feed, reader_of(request), int(given), request.state.trace)
        return answer(feed)

    async def events(self, request: Request) -> Response:
        """Keep events."""
        events = checks.read_events(await self.document(request))
        kept, repeated = await self.record(events)
        return answer({"accepted": kept, "repeated": repeated}, 202)

    async def record(self, events: list[dict[str, Any]]) -> tuple[int, int]:
        """Keep events and count them: how many are new, and how many were there already."""
        now, metrics = time.time(), self.state.metrics
        kinds, versions = await self.state.write(lambda writes: record_events(writes, events, now))
        for kind in kinds:
            metrics.events.labels(kind).inc()
        for version in versions:
            metrics.clicks.labels(version).inc()
        metrics.repeated.inc(len(events) - len(kinds))
        return len(kinds), len(events) - len(kinds)

    async def reader(self, request: Request) -> Response:
        """All that is kept of a reader."""
        return answer(await self.state.run(self._kept_of, reader_of(request)))

    def _kept_of(self, reader: str) -> dict[str, Any]:
        read = self.state.store.read
        known = read("SELECT created FROM readers WHERE reader = :reader", reader=reader)
        if not known:
            raise RefusedError(404, "no such reader")
        history, hidden = self.state.store.clicks_and_hides(reader)
        told: dict[str, Any] = {"reader": reader, "created": known[0][0], "history": history}
        told["hidden"] = sorted(hidden)
        for name, table, key in (
            ("events", "kind, time, event, article, impression, seconds, words FROM events", "seq"),
            ("impressions", "impression, time, model_version, items FROM impressions", "time"),
            ("texts", "id, kind, article, question, written, edited, status, created FROM texts", "id"),
        ):
            statement = f"SELECT {table} WHERE reader = :reader ORDER BY {key} DESC LIMIT {_MOST_KEPT}"
            told[name] = [dict(row._mapping) for row in read(statement, reader=reader)]
        return told

    async def erase(self, request: Request) -> Response:
        """Erase a reader; counters of articles and approved texts stay, without the reader."""
        await self.erase_reader(reader_of(request))
        return Response(status_code=204)

    async def erase_reader(self, reader: str) -> None:
        """Erase a reader; status 404 if there is none."""

        def erase(writes: Writes) -> int:
            return [writes.run(statement, reader=reader).rowcount for statement in _TO_ERASE][-1]

        if not await self.state.write(erase):
            raise RefusedError(404, "no such reader")

    async def write(self, request: Request) -> Response:
        """Write texts for a reader."""
        asked = checks.read_object(await self.document(request), checks.WRITE)
        self.take_turn(request)
        return answer(await self.state.run_long(self.desk.write, asked, request.state.trace))

    async def ask(self, request: Request) -> Response:
        """Answer a reader's question."""
        asked = checks.read_object(await self.document(request), checks.ASK)
        self.take_turn(request)
        return answer(await self.state.run_long(self.desk.ask, asked, request.state.trace))

    async def reviews(self, request: Request) -> Response:
        """Texts of a status, for editors."""
        self.editor(request)
        status = request.query_params.get("status", "waiting")
        if status not in STATUSES:
            raise RefusedError(422, f"status must be one of {', '.join(STATUSES)}", field="status")
        return answer({"reviews": await self.state.run(self.desk.reviews, status)})

    async def review(self, request: Request) -> Response:
        """One text, for editors."""
        self.editor(request)
        return answer(await self.state.run(self.desk.review, number_of(request)))

    async def decide(self, request: Request) -> Response:
        """An editor's decision."""
        editor = self.editor(request)
        decision = checks.read_object(await self.document(request), checks.DECISION)
        return answer(await self.state.run(self.desk.decide, number_of(request), decision, editor))

    def editor(self, request: Request, *, by_cookie: bool = False) -> str:
        """The editor who asks; only pages take a cookie, as no other site can send a token."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        name = self.editors.of_session(request.cookies.get(SESSION, "")) if by_cookie else None
        return name or self.editor_of(request, token.strip() if scheme.lower() == "bearer" else "")

    def editor_of(self, request: Request, token: str) -> str:
        """The editor of a token: status 401 if it is wrong, 429 after too many wrong ones."""
        client = client_of(request.scope)
        if not self.wrong.allows(client, taking=0):
            raise RefusedError(429, "too many wrong tokens: wait a minute")
        name = self.editors.named(token)
        if name is None:
            if token:
                self.wrong.allows(client)
            raise RefusedError(401, "this needs an editor's token: Authorization: Bearer TOKEN")
        return name

    def take_turn(self, request: Request) -> None:
        """Refuse a client that asks for too many texts."""
        if not self.writing.allows(client_of(request.scope)):
            raise RefusedError(429, "too many texts at once: ask again in a second")

    async def document(self, request: Request) -> Any:
        """The JSON document of a request."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RefusedError(415, f"Content-Type must be application/json; got {kind[:60]!r}")
        return checks.parse_json(await self.body(request))

    async def form(self, request: Request) -> dict[str, str]:
        """The fields of a form."""
        body = (await self.body(request)).decode("utf-8", "replace")
        try:
            return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=20))
        except ValueError:
            raise RefusedError(400, "the form has too many fields") from None

    async def body(self, request: Request) -> bytes:
        """The body of a request, within the limits."""
        most, announced = self.limits.body_bytes, request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > most:
            raise RefusedError(413, f"the body is larger than {most} bytes")
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise RefusedError(413, f"the body is larger than {most} bytes")
        except TimeoutError:
            raise RefusedError(408, f"the body did not arrive within {self.limits.body_s:g} s") from None
        return bytes(body)


class Guard:
    """What every request passes through: limits, errors as documents, headers, a trace, a log line."""

    def __init__(self, app: Any, web: Web, tracing: Tracing) -> None:
        self._app, self._web, self._tracing = app, web, tracing

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        with self._tracing.request(request.headers.get("traceparent")) as step:
            scope["state"] = {**scope.get("state", {}), "trace": step.trace}
            await self._answer(request, receive, send, step)

    async def _answer(self, request: Request, receive: Any, send: Any, step: Step) -> None:
        started, status = time.perf_counter(), 500

        async def send_with_headers(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {**SECURITY_HEADERS, "Traceresponse": step.trace}
                if status in (408, 413):
                    own["Connection"] = "close"  # what is left of the body is not read
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in own.items()),
                ]
            await send(message)

        try:
            await self._pass_on(request, receive, send_with_headers)
        finally:
            self._tell(request.scope, status, time.perf_counter() - started, step)

    async def _pass_on(self, request: Request, receive: Any, send: Any) -> None:
        web, client = self._web, client_of(request.scope)
        refused = None
        if not is_own_host(request.headers, web.hosts):
            refused = answer({"error": "this server has another name"}, 421)
        elif not (web.rates["client"].allows(client) and web.rates["all"].allows("")):
            refused = answer({"error": "too many requests: ask again in a second"}, 429)
            refused.headers["Retry-After"] = "1"
        await (refused or self._app)(request.scope, receive, send)

    def _tell(self, scope: Any, status: int, seconds: float, step: Step) -> None:
        route = getattr(scope.get("endpoint"), "__name__", "(none)")
        step.attributes |= {"route": route, "status": status}
        step.failed = status >= 500
        metrics = self._web.state.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
        if not LOGGER.isEnabledFor(logging.INFO):
            return
        fields = {
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 2),
            "trace": step.trace.split("-")[1],
        }
        reader = scope.get("path_params", {}).get("reader")
        if reader:
            fields["reader"] = hashed(reader, self._web.state.store.salt)
        LOGGER.info("request", extra={"fields": fields})


def reader_of(request: Request) -> str:
    """The reader whom a path names."""
    try:
        return checks.identifier(request.path_params["reader"])
    except ValueError as error:
        raise RefusedError(422, f"reader {error}", field="reader") from None


def number_of(request: Request) -> int:
    """The number of a text in a path."""
    given = request.path_params["id"]
    if not (given.isascii() and given.isdecimal() and len(given) <= 18):
        raise RefusedError(404, "no such text")
    return int(given)


def client_of(scope: Any) -> str:
    """The address of a client."""
    return (scope.get("client") or ("",))[0]


def application(web: Web, pages: list[BaseRoute], tracing: Tracing) -> Starlette:
    """The ASGI application."""
    app = Starlette(
        routes=[*web.routes(), *pages],
        exception_handlers={
            RefusedError: _refused,
            HTTPException: lambda _, error: answer({"error": error.detail}, error.status_code),
            ClientDisconnect: lambda _, error: answer({"error": "the body is not complete"}, 400),
            sa.exc.OperationalError: _no_database,
            FailureError: lambda _, error: answer({"error": str(error)}, 503),
            Exception: _failed,
        },
    )
    app.router.redirect_slashes = False  # to the host that the client names
    app.add_middleware(Guard, web=web, tracing=tracing)
    return app


def _refused(request: Request, error: Any) -> Response:
    response = answer(error.document, error.status)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _no_database(request: Request, error: Exception) -> Response:
    LOGGER.error("the database does not answer: %s", error)
    return answer({"error": "the database does not answer: try again later"}, 503)


def _failed(request: Request, error: Exception) -> Response:
    LOGGER.error("a request failed", exc_info=error)
    return answer({"error": "internal error"}, 500)
