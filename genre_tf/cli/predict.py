"""`genre predict` and `genre embed`: a split's ranks as MIND's submission file, and its articles' vectors."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from genre_tf.cli.console import load_tensorflow, print_json, progress, results, working
from genre_tf.cli.options import (
    DataSet,
    Json,
    MaxBadRows,
    Overwrite,
    Run,
    RunnerName,
    RunnerOptions,
    beam_runner,
)

RankingModel = Literal["two_tower", "ranker", "ranker_counters"]
EmbeddingModel = Literal["two_tower", "ranker"]


def predict(
    run: Run,
    data: DataSet,
    split: Annotated[str, typer.Option(help="Split of the data set, such as dev; labels are not needed.")],
    model: Annotated[RankingModel, typer.Option(help="Model that ranks.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    counters_from: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of an earlier labelled log to count clicks in as well; repeatable."),
    ] = None,
    max_bad_rows: MaxBadRows = 0,
    as_json: Json = False,
) -> None:
    """Rank the candidates of every impression of a log; writes a line with its id and ranks for each.

    Example: genre predict runs/mind --data mind --split dev --model ranker --out prediction.txt
    """
    load_tensorflow()
    from genre_tf.evaluation import scoring
    from genre_tf.evaluation.scored_log import read_log

    scoring.check_output(out)
    config = scoring.open_run(run)
    scoring.chosen_models(run, config, (model,))
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
    scorer = scoring.load_scorers(run, (model,), log.table)[model]
    written = scoring.write_predictions(out, log, scorer)
    if as_json:
        print_json({"out": str(out), "impressions": written, "model": model})
    else:
        results.print(f"{written} impressions ranked by {model}: {out}")


def embed(
    run: Run,
    data: DataSet,
    split: Annotated[
        str, typer.Option(help="Split of the data set, such as dev; only its news file is read.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write: news_ids.txt beside .npy shards.")],
    model: Annotated[
        EmbeddingModel,
        typer.Option(help="Model that computes the vectors; those of two_tower are for retrieval."),
    ] = "two_tower",
    max_bad_rows: MaxBadRows = 0,
    overwrite: Overwrite = False,
    runner: RunnerName = None,
    runner_option: RunnerOptions = None,
    as_json: Json = False,
) -> None:
    """Embed every article of a split: ids, and float32 vectors as NumPy shards.

    This process and every Beam runner write the same bytes.

    Example: genre embed runs/mind --data mind --split dev --out vectors
    """
    load_tensorflow()
    from genre_tf.evaluation.scoring import chosen_models, open_run
    from genre_tf.models.bulk_embedding import embed_split

    chosen_models(run, open_run(run), (model,))
    with working(f"embedding the articles of {split}") as status:
        manifest = embed_split(
            run,
            data,
            split,
            out,
            model=model,
            runner=beam_runner(runner, runner_option),
            max_bad_rows=max_bad_rows,
            overwrite=overwrite,
            on_progress=lambda done, shards: status.update(f"embedding: {done} of {shards} shards"),
        )
    if as_json:
        print_json(manifest)
        return
    results.print(
        f"{out}: vectors of {manifest['articles']:,} articles by {model}, "
        f"{manifest['dimension']} dimensions each"
    )
