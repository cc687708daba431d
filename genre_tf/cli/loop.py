"""`genre loop`: one turn of the wheel, for cron, Kubernetes or Airflow."""

from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results, say
from genre_tf.cli.options import Json, Models
from genre_tf.errors import InputError


def loop(
    run: Annotated[Path, typer.Argument(help="Run folder that the models were first exported from.")],
    models: Models,
    database: Annotated[
        str,
        typer.Option(help="URL of the app's database, SQLite or PostgreSQL (postgresql://USER@HOST/NAME)."),
    ] = "sqlite:///app.db",
    turns: Annotated[Path | None, typer.Option(help="Folder of all turns; default: RUN/turns.")] = None,
    least_impressions: Annotated[
        int, typer.Option(min=1, help="Begin a turn only with so many new impressions that have a click.")
    ] = 1_000,
    error_rate: Annotated[
        float,
        typer.Option(help="Greatest share of equal versions that are rolled back, however often one looks."),
    ] = 0.05,
    compare_impressions: Annotated[
        int,
        typer.Option(
            min=1, help="Promote after so many impressions of the new version if no harm is seen until then."
        ),
    ] = 20_000,
    json: Json = False,
) -> None:
    """Take one turn: events > log > check > train > evaluate > canary > compare > promote or roll back.

    Call it every hour or day. A call does what can be done now and ends: with too few new events it does
    nothing, and a comparison goes on with the next call. A turn that was killed goes on where it was.

    Readers are compared only if the app runs with --canary canary=SHARE.

    Example: genre loop runs/mind models --database sqlite:///app.db
    """
    try:
        from genre_tf.serving.loop.turn import LoopOptions, take_turn
    except ModuleNotFoundError as error:
        if str(error.name).startswith("genre_tf"):
            raise
        raise InputError(f"{error.name} is not installed: pip install 'genre-tf[app]'") from None
    options = LoopOptions(
        run=run,
        models=models,
        database=database,
        turns=turns or run / "turns",
        least_impressions=least_impressions,
        error_rate=error_rate,
        compare_impressions=compare_impressions,
    )
    load_tensorflow()
    found = take_turn(options, say)
    if json:
        print_json(found)
        return
    name = f"turn {found['turn']}: " if found["turn"] else ""
    results.print(f"{name}{found['outcome']}: {found['reason']}")
