"""`genre report`: one HTML file that tells of a run."""

from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import progress, results
from genre_tf.cli.tensorflow_notes import load_tensorflow


def report(
    run: Annotated[Path, typer.Argument(help="Run folder, as `genre train` leaves it.")],
    split: Annotated[str, typer.Option(help="The split that `genre evaluate` was given.")] = "dev",
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: RUN/reports/report-SPLIT.html.")
    ] = None,
) -> None:
    """Tell of a run in one HTML file: its data, its models, what they are worth and where they fail.

    Needs no network and makes no request; prints well. Run `genre evaluate` before it.

    Example: genre report runs/mind
    """
    load_tensorflow(look_for_devices=False)
    from genre_tf.reporting.html_report import write_html

    file, missing = write_html(run, split, out)
    for line in missing:
        progress.print(line, markup=False, soft_wrap=True)
    results.print(str(file), markup=False)
