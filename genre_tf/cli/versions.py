"""`genre rollback`, `label` and `prune`: which versions of exported models are served, and which are kept."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genre_tf.cli.clients import TLS
from genre_tf.cli.console import load_tensorflow, print_json, progress, results
from genre_tf.cli.options import Json, Models, takes
from genre_tf.errors import InputError

if TYPE_CHECKING:
    import grpc

    from genre_tf.serving.operations.version_choice import Choice

LATEST = "latest"
Servable = Annotated[str, typer.Argument(help="Servable, such as genre_recommender.")]
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


@takes(tls=TLS)
def rollback(
    models: Models,
    name: Servable,
    to: Annotated[
        str | None,
        typer.Option(
            help="Version to serve; `latest`: the newest again, and each new export. Default: the newest "
            "valid version before the present one."
        ),
    ] = None,
    server: ServerOption = None,
    wait_s: WaitOption = 600,
    *,
    tls: dict[str, Any],
    json: Json = False,
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
    from genre_tf.serving.client.channels import client_credentials
    from genre_tf.serving.operations.version_choice import follow_newest, roll_back

    waits = (server or [], wait_s, client_credentials(*tls.values()))
    if to == LATEST:
        choice = follow_newest(models, name)
    else:
        choice = roll_back(models, name, None if to is None else int(to))
        if choice.waits_for is not None and server:
            target = choice.waits_for
            _wait_for(choice, target, None, *waits)
            choice = roll_back(models, name, target)
    if choice.waits_for is None and choice.default is not None:
        moved = {label: version for label, version in choice.labels.items() if version == choice.default}
        _wait_for(choice, choice.default, {"": choice.default, **moved}, *waits)
    _print_choice(choice, json, ["genre", "rollback", str(models), name, "--to", str(choice.waits_for)])


def _wait_for(
    choice: "Choice",
    version: int | None,
    answers: Mapping[str, int | None] | None,
    servers: list[str],
    wait_s: float,
    credentials: "grpc.ChannelCredentials | None",
) -> None:
    """Wait until every server has loaded the version, then until requests get the `answers` by label."""
    from genre_tf.serving.operations.model_server import wait_until_served

    for server in servers:
        progress.print(f"waiting for {server} to serve {choice.model} as chosen")
        wait_until_served(
            server, choice.model, wait_s, version=version, answers=answers, credentials=credentials
        )


def _print_choice(choice: "Choice", json: bool, again: list[str]) -> None:
    """Print what is served now, and the command that completes a half-done change."""
    if json:
        names = ("loaded", "default", "labels", "newest_follow", "waits_for")
        print_json({"servable": choice.model, **{name: getattr(choice, name) for name in names}})
        return
    loaded = ", ".join(map(str, choice.loaded)) or "none"
    labels = "".join(f"; {label} = {version}" for label, version in choice.labels.items())
    follow = "served as they appear" if choice.newest_follow else "not served until chosen"
    default = "none" if choice.default is None else choice.default
    results.print(f"{choice.model}: loaded {loaded}; requests without a label get {default}{labels}")
    results.print(f"newer exports: {follow}")
    if choice.waits_for is not None:
        results.print(
            "half done: servers refuse to move a label to a version before it is loaded. "
            f"Once they have loaded version {choice.waits_for}: {shlex.join(again)}"
        )


@takes(tls=TLS)
def label(
    models: Models,
    name: Servable,
    label: Annotated[str, typer.Argument(help="Label, such as stable or canary.")],
    version: Annotated[int | None, typer.Argument(min=1, help="Version that the label points to.")] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Also make servers load this version, beside the present ones.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the label.")] = False,
    server: ServerOption = None,
    wait_s: WaitOption = 600,
    *,
    tls: dict[str, Any],
    json: Json = False,
) -> None:
    """Set, move or remove the label of a version.

    A request may name a label instead of a version (REST: /v1/models/NAME/labels/stable:predict); with
    neither, it gets the highest loaded version, so let clients ask for `stable` while a canary is loaded.
    A labelled version stays loaded; newer exports are then not served until chosen.

    Example: genre label models genre_recommender canary 4 --load
    """
    if (version is None) != remove:
        raise InputError("give a VERSION to set the label, or --remove without one")
    load_tensorflow()
    from genre_tf.serving.client.channels import client_credentials
    from genre_tf.serving.operations.version_choice import remove_label, set_label

    waits = (server or [], wait_s, client_credentials(*tls.values()))
    if version is None:
        choice = remove_label(models, name, label)
    else:
        choice = set_label(models, name, label, version, load=load)
        if choice.waits_for is not None and server:
            _wait_for(choice, version, None, *waits)
            choice = set_label(models, name, label, version)
    if choice.waits_for is None:
        _wait_for(choice, version, {label: version}, *waits)
    _print_choice(choice, json, ["genre", "label", str(models), name, label, str(version)])


def prune(
    models: Models,
    name: Annotated[str | None, typer.Argument(help="Servable; default: all of the folder.")] = None,
    keep: Annotated[
        int,
        typer.Option(
            min=1, help="Newest valid versions to keep: the live one, one to roll back to, one more."
        ),
    ] = 3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing; print what would be removed.")
    ] = False,
    json: Json = False,
) -> None:
    """Remove old versions; never one that is loaded, listed in the version policy, labelled, or the newest.

    Each is first renamed to a hidden folder that servers ignore, then deleted.

    Example: genre prune models --keep 3
    """
    from genre_tf.serving.operations.version_choice import prune as prune_models

    pruned = prune_models(models, keep, name=name, dry_run=dry_run)
    if json:
        servables = [{"name": one.model, "removed": one.removed, "kept": one.kept} for one in pruned]
        print_json({"dry_run": dry_run, "servables": servables})
        return
    for one in pruned:
        gone = ", ".join(map(str, one.removed)) or "nothing"
        results.print(f"{one.model}: {'would remove' if dry_run else 'removed'} {gone}")
        for version, reason in one.kept.items():
            results.print(f"  kept {version}: {reason}")
