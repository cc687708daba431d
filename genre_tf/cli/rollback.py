"""`genre rollback MODELS NAME`: serve an earlier version, and stay on it."""

import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genre_tf.cli.console import print_json, progress, results
from genre_tf.cli.tensorflow_notes import load_tensorflow
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey
from genre_tf.errors import InputError

if TYPE_CHECKING:
    import grpc

    from genre_tf.serving.operations.version_choice import Choice

LATEST = "latest"
ServerOption = Annotated[
    list[str] | None,
    typer.Option(
        help="gRPC address of a running server, HOST:PORT; repeatable. Waits until it answers as chosen, and "
        "does both steps of a change that needs two."
    ),
]
WaitOption = Annotated[
    float, typer.Option(min=1, help="Seconds to wait for a server to load a version, and to use it.")
]


def rollback(
    models: Annotated[Path, typer.Argument(help="Folder that `genre export` wrote.")],
    name: Annotated[str, typer.Argument(help="Servable, such as genre_recommender.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="Version to serve; `latest`: the newest again, and each new export. Default: the newest "
            "valid version before the present one."
        ),
    ] = None,
    server: ServerOption = None,
    wait_s: WaitOption = 600,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Go back to an earlier version; newer exports are not served until `--to latest`.

    Replaces models.config by one rename; servers started with --model_config_file_poll_wait_seconds follow by
    themselves, and load the version before they unload the other. Labels of newer versions move to it.
    Nothing is deleted.

    Example: genre rollback models genre_recommender
    """
    if to is not None and to != LATEST and not (to.isascii() and to.isdecimal()):
        raise InputError(f"--to must be a version number or `{LATEST}`; got {to!r}")
    load_tensorflow()
    from genre_tf.serving.client.addresses import client_credentials
    from genre_tf.serving.operations.version_choice import follow_newest, roll_back

    wait = functools.partial(wait_for, server, wait_s, client_credentials(tls_ca, tls_cert, tls_key))
    if to == LATEST:
        choice = follow_newest(models, name)
    else:
        choice = roll_back(models, name, None if to is None else int(to))
        if choice.waits_for is not None and server:
            target = choice.waits_for
            wait(choice, target)
            choice = roll_back(models, name, target)
    if choice.waits_for is None and choice.default is not None:
        moved = {label: version for label, version in choice.labels.items() if version == choice.default}
        wait(choice, choice.default, {"": choice.default, **moved})
    print_choice(choice, json, ["genre", "rollback", str(models), name, "--to", str(choice.waits_for)])


def wait_for(
    servers: list[str] | None,
    wait_s: float,
    credentials: "grpc.ChannelCredentials | None",
    choice: "Choice",
    version: int | None,
    answers: Mapping[str, int | None] | None = None,
) -> None:
    """Wait until every named server has loaded a version, then until requests get the expected versions.

    Args:
        servers: gRPC addresses; None: return at once.
        wait_s: maximum wait for each of the two, in seconds.
        credentials: for servers with TLS.
        choice: the change.
        version: version to load; None: do not wait for one.
        answers: as for `wait_until_served`; None: do not wait for answers.
    """
    from genre_tf.serving.operations.model_status import wait_until_served

    for server in servers or ():
        progress.print(f"waiting for {server} to serve {choice.model} as chosen", markup=False)
        wait_until_served(
            server, choice.model, wait_s, version=version, answers=answers, credentials=credentials
        )


def print_choice(choice: "Choice", json: bool, again: list[str]) -> None:
    """Print what is served now, and the command that completes a half-done change."""
    if json:
        print_json(
            {
                "servable": choice.model,
                "loaded": choice.loaded,
                "default": choice.default,
                "labels": choice.labels,
                "newest_follow": choice.newest_follow,
                "waits_for": choice.waits_for,
            }
        )
        return
    loaded = ", ".join(map(str, choice.loaded)) or "none"
    labels = "".join(f"; {label} = {version}" for label, version in choice.labels.items())
    follow = "served as they appear" if choice.newest_follow else "not served until chosen"
    default = "none" if choice.default is None else choice.default
    results.print(
        f"{choice.model}: loaded {loaded}; requests without a label get {default}{labels}", markup=False
    )
    results.print(f"newer exports: {follow}", markup=False)
    if choice.waits_for is not None:
        results.print(
            "half done: servers refuse to move a label to a version before it is loaded. "
            f"Once they have loaded version {choice.waits_for}: {shlex.join(again)}",
            markup=False,
        )
