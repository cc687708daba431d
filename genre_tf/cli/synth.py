"""`genre synth OUT`: a data set in MIND's format whose true click probabilities are known."""

from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import print_json, progress, results
from genre_tf.synth.newsroom import write_newsroom
from genre_tf.synth.settings import NewsroomSettings

_DEFAULTS = NewsroomSettings()


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write: train/, dev/ and newsroom.json.")],
    articles: Annotated[int, typer.Option(help="Number of articles, with those from before the log.")] = (
        _DEFAULTS.articles
    ),
    readers: Annotated[int, typer.Option(help="Number of readers.")] = _DEFAULTS.readers,
    days: Annotated[int, typer.Option(help="Logged days; the last one is dev.")] = _DEFAULTS.days,
    impressions: Annotated[int, typer.Option(help="Impressions of all logged days.")] = _DEFAULTS.impressions,
    seed: Annotated[int, typer.Option(help="Equal seeds write equal files.")] = _DEFAULTS.seed,
    signals: Annotated[
        bool, typer.Option("--signals", help="Log how long each click was read.")
    ] = _DEFAULTS.signals,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT if it exists.")] = False,
    json: Annotated[bool, typer.Option(help="Print newsroom.json.")] = False,
) -> None:
    """Write a synthetic newsroom: articles in plain English, readers with tastes, and their clicks.

    The folder is in MIND's format, with the true click probability of every candidate in truth.tsv.

    Example: genre synth newsroom --seed 7
    """
    settings = NewsroomSettings(
        articles=articles, readers=readers, days=days, impressions=impressions, seed=seed, signals=signals
    )
    progress.print(f"writing {articles:,} articles and {impressions:,} impressions of {readers:,} readers …")
    report = write_newsroom(out, settings, overwrite=overwrite)
    if json:
        print_json(report)
        return
    for split, metrics in report["oracle"].items():
        results.print(
            f"{out / split}: {metrics['impressions']:,} impressions; ranked by the true click probabilities: "
            f"AUC {metrics['auc']:.3f}, MRR {metrics['mrr']:.3f}, nDCG@10 {metrics['ndcg@10']:.3f}"
        )
