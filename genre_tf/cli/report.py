"""`genre report`: one HTML file that tells of a run."""

from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import progress, results
from genre_tf.cli.tensorflow_notes import load_tensorflow
from genre_tf.errors import InputError


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
    if not run.is_dir():
        raise InputError(f"{run} is no folder; give a run folder, as `genre train` leaves it")
    load_tensorflow(look_for_devices=False)
    from genre_tf.reporting.html_report import write_html

    if out is None:
        out = run / "reports" / f"report-{split}.html"
        out.parent.mkdir(exist_ok=True)
    for line in write_html(run, split, out):
        progress.print(line, markup=False, soft_wrap=True)
    results.print(str(out), markup=False)
