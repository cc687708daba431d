"""`genre evaluate`: all metrics of models and baselines, also per slice."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results, say

PoolRule = Literal["split", "first_seen", "published", "none"]


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of a MIND-format data set.")],
    split: Annotated[str, typer.Option(help="Labelled split of the data set.")] = "dev",
    models: Annotated[
        str,
        typer.Option(help="Comma-separated: two_tower, ranker, ranker_counters. Default: all trained ones."),
    ] = "",
    before: Annotated[bool, typer.Option(help="Also measure the same models before training.")] = True,
    generation: Annotated[bool, typer.Option(help="Also measure the generator.")] = True,
    readers: Annotated[
        int,
        typer.Option(
            min=0, help="Readers to write for (0: none); each text is compared with one for another."
        ),
    ] = 200,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Texts per reader, of which the best-ranked is served; default: as served."
        ),
    ] = None,
    pool: Annotated[
        PoolRule,
        typer.Option(
            help="Articles that `recommend` may choose from at an impression: split: all of the split; "
            "first_seen: those shown before; published: those published before; none: skip the whole pool."
        ),
    ] = "split",
    refresh_hours: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Measure the whole pool with counters that the server refreshes only every so many hours; "
            "0: with counters that are always current.",
        ),
    ] = 0.0,
    max_bad_rows: Annotated[int, typer.Option(help="Faulty rows of the split that may be skipped.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON instead of tables.")] = False,
) -> None:
    """Measure a run on a split; write the report to RUN/reports and its numbers to RUN/logs/evaluation.

    Example: genre evaluate runs/mind --data mind --split dev
    """
    load_tensorflow()
    from genre_tf.evaluation.evaluate import EvaluationOptions, evaluate_run
    from genre_tf.evaluation.scoring import Measured
    from genre_tf.reporting.board import clear, log_models
    from genre_tf.reporting.keeping import check_place, keep_evaluation
    from genre_tf.reporting.tables import print_report

    options = EvaluationOptions(
        models=tuple(filter(None, (name.strip() for name in models.split(",")))),
        before=before,
        generation=generation,
        readers=readers,
        samples=samples,
        max_bad_rows=max_bad_rows,
        pool=None if pool == "none" else pool,
        refresh_hours=refresh_hours,
    )

    if (run / "config.toml").is_file():
        check_place(run)

    def look(measured: Measured) -> None:
        clear(run, split)
        log_models(measured, run, split)

    report, files = keep_evaluation(evaluate_run(run, data, split, options, say, look), run)
    if as_json:
        print_json(report)
    else:
        print_report(report, results)
    say(f"written: {', '.join(map(str, files))}; next: genre board {run}, genre report {run}")
