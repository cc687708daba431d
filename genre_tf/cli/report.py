"""`genre report`: a run as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import progress, results
from genre_tf.cli.tensorflow_notes import load_tensorflow


def report(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    split: Annotated[str, typer.Option(help="Split that `genre evaluate` measured.")] = "dev",
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: RUN/reports/report-SPLIT.html.")
    ] = None,
) -> None:
    """Write a report of a run as one HTML file: whether it is good, what readers get, and the numbers.

    The file works without a network and prints well. Run `genre evaluate` first.

    Example: genre report runs/mind
    """
    load_tensorflow(look_for_devices=False)
    from genre_tf.reporting.html_report import write_html

    file, lines = write_html(run, split, out)
    for line in lines:
        progress.print(line, markup=False, soft_wrap=True)
    results.print(str(file), markup=False)
