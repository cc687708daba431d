"""`genre label MODELS NAME LABEL VERSION`: let requests ask for `stable` or `canary`."""

from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.rollback import ServerOption, WaitOption, print_choice, wait_for
from genre_tf.cli.tensorflow_notes import load_tensorflow
from genre_tf.cli.tls_options import TlsCa, TlsCert, TlsKey
from genre_tf.errors import InputError


def label(
    models: Annotated[Path, typer.Argument(help="Folder that `genre export` wrote.")],
    name: Annotated[str, typer.Argument(help="Servable, such as genre_recommender.")],
    label: Annotated[str, typer.Argument(help="Label, such as stable or canary.")],
    version: Annotated[int | None, typer.Argument(min=1, help="Version that the label points to.")] = None,
    load: Annotated[
        bool, typer.Option("--load", help="Also make servers load this version, beside the present ones.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the label.")] = False,
    server: ServerOption = None,
    wait_s: WaitOption = 600,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
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
    from genre_tf.serving.client.addresses import client_credentials
    from genre_tf.serving.operations.version_choice import remove_label, set_label

    credentials = client_credentials(tls_ca, tls_cert, tls_key)
    if version is None:
        choice = remove_label(models, name, label)
    else:
        choice = set_label(models, name, label, version, load=load)
        if choice.waits_for is not None and server:
            wait_for(server, wait_s, credentials, choice, version)
            choice = set_label(models, name, label, version)
    if choice.waits_for is None:
        wait_for(server, wait_s, credentials, choice, version, {label: version})
    print_choice(choice, json, ["genre", "label", str(models), name, label, str(version)])
