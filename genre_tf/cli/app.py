"""`genre app`: the newsroom app in front of a model server."""

import asyncio
import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import progress, say, working
from genre_tf.cli.options import Models
from genre_tf.errors import InputError

TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with a line for each editor: TOKEN or NAME TOKEN. Default: a new token is printed."
    ),
]
Canary = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL=SHARE", help="Readers who get a labelled version: canary=5%; repeatable."),
]

GeneratorServer = Annotated[
    str | None, typer.Option(help="gRPC address of genre_generator, if it has a server of its own.")
]
RulesToml = Annotated[
    Path | None,
    typer.Option(help="TOML file with pins, blocked articles and caps; read again when it changes."),
]
Otlp = Annotated[
    str, typer.Option(metavar="URL", help="OpenTelemetry collector (OTLP over HTTP) that gets spans.")
]
LogRequests = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Keep a sample of the requests to the model server; has readers' histories."
    ),
]
LogShare = Annotated[float, typer.Option(help="Share of them to keep with --log-requests, at most 1.")]


def app(
    models: Models,
    database: Annotated[
        str, typer.Option(help="URL of the database, SQLite or PostgreSQL (postgresql://USER@HOST/NAME).")
    ] = "sqlite:///app.db",
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8080,
    server: Annotated[
        str | None,
        typer.Option(
            help="gRPC address of a model server, HOST:PORT. Default: `genre serve MODELS` is started."
        ),
    ] = None,
    generator_server: GeneratorServer = None,
    editor_token_file: TokenFile = None,
    rules: RulesToml = None,
    canary: Canary = None,
    shadow: Annotated[
        str, typer.Option(help="Label of a version that is also asked, only to compare its answers.")
    ] = "",
    client_rate: Annotated[
        float, typer.Option(min=1, help="Requests a second of one client; your backend is one.")
    ] = 1000.0,
    otlp: Otlp = "",
    log_requests: LogRequests = None,
    log_share: LogShare = 0.01,
    log: Annotated[bool, typer.Option("--log/--no-log", help="Log each request on stderr, as JSON.")] = True,
) -> None:
    """Run the newsroom app: feeds, events, written texts and their review, over HTTP.

    Prints one line that begins with `ready` once it answers. Ids of readers are hashed in the log.

    Example: genre app models --database sqlite:///app.db
    """
    try:
        from genre_tf.serving.app.access import Limits
        from genre_tf.serving.app.observing import LOGGER, JsonLines
        from genre_tf.serving.app.rules import parse_shares
        from genre_tf.serving.app.running import AppOptions, run_app
    except ModuleNotFoundError as error:
        if str(error.name).startswith("genre_tf"):
            raise
        raise InputError(f"{error.name} is not installed: pip install 'genre-tf[app]'") from None
    from genre_tf.serving.operations.server_process import server_process

    if generator_server and not server:
        raise InputError("--generator-server needs --server: give the address of genre_recommender too")
    shares = parse_shares(canary or [])
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    spans = logging.getLogger("opentelemetry")  # its log lines have words of the collector
    for logger in (LOGGER, spans):
        logger.addHandler(handler)
    LOGGER.setLevel(logging.INFO if log and not progress.quiet else logging.WARNING)
    with ExitStack() as stack:
        for logger in (LOGGER, spans):
            stack.callback(logger.removeHandler, handler)
        if server is None:
            with working("starting the model server"):
                server = stack.enter_context(server_process(models)).address
        options = AppOptions(
            database=database,
            host=host,
            port=port,
            server=server,
            generator_server=generator_server,
            editor_token_file=editor_token_file,
            rules=rules,
            canary=shares,
            shadow=shadow,
            log_requests=log_requests,
            log_share=log_share,
            otlp=otlp,
            limits=Limits(rate=client_rate),
        )
        # A feed and the thread that writes take turns: by default one waits up to 5 ms for the other.
        sys.setswitchinterval(2e-4)
        asyncio.run(run_app(models, options, _ready, say))


def _ready(url: str) -> None:
    sys.stdout.write(f"ready {url}\n")
    sys.stdout.flush()
