"""`genre predict`: MIND's submission file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from genre_tf.cli.console import load_tensorflow, print_json, progress, results

Model = Literal["two_tower", "ranker", "ranker_counters"]


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of a MIND-format data set.")],
    split: Annotated[str, typer.Option(help="Split of the data set, such as dev; labels are not needed.")],
    model: Annotated[Model, typer.Option(help="Model that ranks.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    counters_from: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of an earlier labelled log to count clicks in as well; repeatable."),
    ] = None,
    max_bad_rows: Annotated[int, typer.Option(help="Faulty rows that may be skipped in each log.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Rank the candidates of every impression of a log; writes a line with its id and ranks for each.

    Example: genre predict runs/mind --data mind --split dev --model ranker --out prediction.txt
    """
    load_tensorflow()
    from genre_tf.evaluation.scored_log import read_log
    from genre_tf.evaluation.scoring import (
        check_output,
        chosen_models,
        load_scorers,
        open_run,
        write_predictions,
    )

    check_output(out)
    config = open_run(run)
    chosen_models(run, config, (model,))
    log = read_log(
        run,
        config,
        data,
        split,
        with_counters=model == "ranker_counters",
        counters_from=counters_from or (),
        max_bad_rows=max_bad_rows,
    )
    progress.print(f"{len(log.split.impressions)} impressions of {split}, {len(log.table) - 1} articles")
    for fault in log.split.faults:
        progress.print(f"skipped {fault}")
    scorer = load_scorers(run, (model,), log.table)[model]
    written = write_predictions(out, log, scorer)
    if as_json:
        print_json({"out": str(out), "impressions": written, "model": model})
    else:
        results.print(f"{written} impressions ranked by {model}: {out}")
