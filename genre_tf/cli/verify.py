"""`genre verify MODELS`: will TensorFlow Serving run these models, and do they answer as in Python?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genre_tf.cli.console import load_tensorflow, print_json, progress, results
from genre_tf.errors import FailureError
from genre_tf.export.publishing import check_models_path

if TYPE_CHECKING:
    from genre_tf.export.verification import Verification


def verify(
    models: Annotated[
        Path,
        typer.Argument(help="Folder that `genre export` wrote: MODELS, MODELS/NAME or MODELS/NAME/VERSION."),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check exported models: portable ops only, and every signature equal to the Python model.

    The newest version of each servable answers its recorded requests in a session of a fresh process that
    imports only TensorFlow and TensorFlow Text. Exit status 0 if all checks pass, 1 if not.

    Example: genre verify models
    """
    check_models_path(models)
    load_tensorflow()
    from genre_tf.export.verification import find_versions, verify_version

    checked = []
    for version in find_versions(models):
        progress.print(f"checking {version}")
        checked.append(verify_version(version))
    if json:
        print_json({"models": [verification.as_json() for verification in checked]})
    else:
        for verification in checked:
            print_verification(verification)
    failed = [f"{entry.servable} version {entry.version}" for entry in checked if not entry.passed]
    if failed:
        raise FailureError(f"{', '.join(failed)}: must not be served; the table says why. Export again.")


def print_verification(verification: "Verification") -> None:
    """Print a table of one verified version, and every fault under it."""
    from rich.table import Table

    table = Table(title=f"{verification.servable} version {verification.version}", title_justify="left")
    table.add_column("signature")
    for column in ("requests", "warmups", "rows", "greatest difference"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for name, check in verification.signatures.items():
        counts = (str(check.requests), str(check.warmups), str(check.rows), f"{check.difference:.1e}")
        table.add_row(name, *counts, "equal" if not check.faults else f"{len(check.faults)} faults")
    results.print(table)
    gate = "portable" if not verification.violations else f"{len(verification.violations)} violations"
    results.print(f"gate: {gate}")
    for line in verification.all_faults():
        results.print(f"  {line}")
