"""`genre embed`: the vectors of every article, for use in another index."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from genre_tf.cli.console import load_tensorflow, print_json, progress, results
from genre_tf.cli.prepare import RunnerName, RunnerOptions, beam_runner

Model = Literal["two_tower", "ranker"]


def embed(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of a MIND-format data set.")],
    split: Annotated[
        str, typer.Option(help="Split of the data set, such as dev; only its news file is read.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write: news_ids.txt beside .npy shards.")],
    model: Annotated[
        Model, typer.Option(help="Model that computes the vectors; those of two_tower are for retrieval.")
    ] = "two_tower",
    max_bad_rows: Annotated[int, typer.Option(help="Faulty rows that may be skipped.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing embeddings.")] = False,
    runner: RunnerName = None,
    runner_option: RunnerOptions = None,
    as_json: Annotated[bool, typer.Option("--json", help="The manifest as JSON, for programs.")] = False,
) -> None:
    """Embed every article of a split: ids, and float32 vectors as NumPy shards.

    This process and every Beam runner write the same bytes.

    Example: genre embed runs/mind --data mind --split dev --out vectors
    """
    load_tensorflow()
    from genre_tf.evaluation.scoring import chosen_models, open_run
    from genre_tf.models.bulk_embedding import embed_split

    chosen_models(run, open_run(run), (model,))
    with progress.status(escape(f"embedding the articles of {split}")) as status:
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
