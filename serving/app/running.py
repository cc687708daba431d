"""Runs the app: the database, the model server, the HTTP port."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from genre_tf.errors import InputError
from genre_tf.serving.app.access import Editors, Limits
from genre_tf.serving.app.model_server import ModelServer
from genre_tf.serving.app.pages import Pages
from genre_tf.serving.app.request_log import RequestLog
from genre_tf.serving.app.rules import Rollout, RulesFile
from genre_tf.serving.app.state import State
from genre_tf.serving.app.storage import Store
from genre_tf.serving.app.tracing import SpanTracing, Tracing
from genre_tf.serving.app.web import Web, application
from genre_tf.serving.client.channels import bare_host, host_port
from genre_tf.serving.connections import ConnectionLimits, limited_connections

_MOST_CONNECTIONS = 2_000
_IDLE_S = 60  # between requests of a connection; load balancers wait about as long
_STOP_S = 5
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """How the app runs."""

    database: str = "sqlite:///app.db"  # as SQLAlchemy has it
    host: str = "127.0.0.1"
    port: int = 8080  # 0 picks a free one
    server: str  # of gRPC, HOST:PORT
    generator_server: str | None = None  # the same of `genre_generator`; None: `server` has it too
    editor_token_file: Path | None = None  # None: a new token at each start
    rules: Path | None = None
    canary: Mapping[str, float] = field(default_factory=dict)  # label -> share of the readers
    shadow: str = ""  # label of a version that is asked too, without showing its answers
    log_requests: Path | None = None  # folder of a sample of the requests to the model server
    log_share: float = 0.01  # of these requests
    otlp: str = ""  # URL of an OpenTelemetry collector; "": no spans
    limits: Limits = Limits()  # noqa: RUF009  (frozen)


@contextlib.asynccontextmanager
async def open_app(models: Path, options: AppOptions, say: Callable[[str], None]) -> AsyncIterator[Starlette]:
    """The ASGI application over a MODELS folder, while the context is open.

    Raises:
        InputError: a file, an address or the database is wrong, or an extra is missing.
    """
    editors, rules = Editors(options.editor_token_file), RulesFile(options.rules, say)
    store = Store(options.database)
    async with contextlib.AsyncExitStack() as opened:
        opened.callback(store.close)
        tracing = SpanTracing(options.otlp) if options.otlp else Tracing()
        opened.callback(tracing.close)
        request_log = None
        if options.log_requests is not None:
            request_log = RequestLog(options.log_requests, options.log_share)
            opened.callback(request_log.close)
        server = ModelServer(
            options.server, options.generator_server, tracing=tracing, request_log=request_log
        )
        opened.callback(server.close)
        state = State(models, store, server, rules, Rollout(options.canary, store.salt))
        opened.callback(state.close)
        following = asyncio.create_task(state.follow())
        opened.callback(following.cancel)
        if editors.new_token:
            say(f"token of the editors, new at each start: {editors.new_token}")
        if editors.weak_lines:
            lines = ", ".join(map(str, editors.weak_lines))
            say(f"{options.editor_token_file}, line {lines}: a token this short can be guessed")
        hosts = _LOOPBACK if options.host in _LOOPBACK else frozenset()
        web = Web(state, editors, options.limits, options.shadow, hosts)
        yield application(web, Pages(web).routes(), tracing)


async def run_app(
    models: Path,
    options: AppOptions,
    ready: Callable[[str], None],
    say: Callable[[str], None],
    stop: asyncio.Event | None = None,
) -> None:
    """Answer until SIGTERM, Ctrl-C or `stop`; `ready` is called with the URL."""
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listening = socket.create_server((bare_host(options.host), options.port), family=family, backlog=2048)
    except OSError as error:
        reason = str(error.strerror or error).split(" (while")[0]
        raise InputError(
            f"cannot listen on {host_port(options.host, options.port)}: {reason}; choose another "
            "--port, or 0 for a free one"
        ) from None
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listening:
        async with open_app(models, options, say) as app:
            connections = ConnectionLimits(connections=_MOST_CONNECTIONS)
            config = uvicorn.Config(
                app,
                http=limited_connections(connections),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,  # it would have readers' ids
                server_header=False,
                proxy_headers=False,
                limit_concurrency=connections.connections,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=_STOP_S,
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            waiting = asyncio.create_task((stop or _told_to_stop()).wait())
            waiting.add_done_callback(lambda _: setattr(server, "should_exit", True))
            ready(f"http://{host_port(options.host, listening.getsockname()[1])}")
            await serving


def _told_to_stop() -> asyncio.Event:
    """Set by SIGTERM and Ctrl-C, also before uvicorn takes them and when it raises them again at its end."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    return stop
