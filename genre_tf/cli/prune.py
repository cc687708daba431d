"""`genre prune MODELS`: remove old versions that are not served."""

from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import print_json, results


def prune(
    models: Annotated[Path, typer.Argument(help="Folder that `genre export` wrote.")],
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
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Remove old versions; never one that is loaded, listed in the version policy, labelled, or the newest.

    Each is first renamed to a hidden folder that servers ignore, then deleted.

    Example: genre prune models --keep 3
    """
    from genre_tf.serving.operations.version_choice import prune as prune_models

    pruned = prune_models(models, keep, name=name, dry_run=dry_run)
    if json:
        print_json(
            {
                "dry_run": dry_run,
                "servables": [
                    {"name": one.model, "removed": one.removed, "kept": one.kept} for one in pruned
                ],
            }
        )
        return
    for one in pruned:
        gone = ", ".join(map(str, one.removed)) or "nothing"
        results.print(f"{one.model}: {'would remove' if dry_run else 'removed'} {gone}", markup=False)
        for version, reason in one.kept.items():
            results.print(f"  kept {version}: {reason}", markup=False)
