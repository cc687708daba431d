"""`genre refresh MODELS`: new articles, new counts and expired articles, without training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genre_tf.cli.console import print_json, progress, results
from genre_tf.cli.tensorflow_notes import load_tensorflow
from genre_tf.environment import prefer_onednn

if TYPE_CHECKING:
    from genre_tf.export.changes import Changes
    from genre_tf.export.fresh_process import FreshProcess
    from genre_tf.export.refreshing import Refreshed

_NUMBERS = ("added", "changed", "expired", "articles", "recommendable")

FromVersion = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Version to build on. If not given, the one that models.config has servers load, the highest "
        "if several (after a rollback not the newest); without models.config the newest.",
    ),
]


def refresh(
    models: Annotated[Path, typer.Argument(help="Folder of served models, as `genre export` leaves it.")],
    news: Annotated[
        Path | None,
        typer.Option(
            help="News file in MIND's format. Articles that the index does not know are encoded and added, "
            "those that it knows by another title are encoded again, others are passed over."
        ),
    ] = None,
    behaviors: Annotated[
        Path | None,
        typer.Option(
            help="Log in MIND's format since the last export or refresh; its clicks and views are added."
        ),
    ] = None,
    expire: Annotated[
        str | None,
        typer.Option(
            help="New age limit: articles published (or first shown) more than so many hours before the end "
            "of the log, or before a date such as 2019-11-15, are recommended only while they are still "
            "clicked. Histories and `score` know them as before."
        ),
    ] = None,
    withdraw: Annotated[
        list[str] | None,
        typer.Option(help="Id of an article that is never to be recommended again; repeatable."),
    ] = None,
    from_version: FromVersion = None,
    max_bad_rows: Annotated[int, typer.Option(help="Faulty rows that may be skipped in each file.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the next version of genre_recommender, with another index or other counters; reads the live one.

    New articles are encoded with the served model itself: neither the run nor its data are needed. The
    version appears whole or not at all, after it was verified as an export is. genre_generator keeps the
    articles that its answers are written from until the next export.

    Example: genre refresh models --news today/news.tsv --behaviors today/behaviors.tsv --expire 72
    """
    from genre_tf.export.fresh_process import fresh_process
    from genre_tf.export.names import changed_answers

    prefer_onednn()
    # Without new articles only the counters change, and what answers by them.
    with fresh_process(known_graph=True, only=changed_answers(news)) as fresh:
        load_tensorflow()  # as the fresh process does at the same time
        from genre_tf.export.changes import Changes, parse_expiry

        until = None if expire is None else parse_expiry(expire)
        changes = Changes(
            news=news,
            behaviors=behaviors,
            expire=until,
            withdraw=frozenset(withdraw or ()),
            max_bad_rows=max_bad_rows,
        )
        done = _refreshed(models, changes, from_version, fresh)
    _print_refreshed(done, json)


def _refreshed(
    models: Path, changes: "Changes", from_version: int | None, fresh: "FreshProcess"
) -> "Refreshed":
    from genre_tf.export.names import RECOMMENDER
    from genre_tf.export.refreshing import refresh
    from genre_tf.serving.configuration import warmup_sizes
    from genre_tf.serving.version_choice import served_version

    folder = models.parent if models.name == RECOMMENDER else models
    return refresh(
        models,
        changes,
        lambda line: progress.print(line, markup=False, soft_wrap=True),
        from_version or served_version(folder, RECOMMENDER),
        warmup_sizes(folder),
        fresh,
    )


def _print_refreshed(done: "Refreshed", json: bool) -> None:
    from genre_tf.cli.export import print_held_back
    from genre_tf.cli.verify import print_verification
    from genre_tf.serving.version_choice import held_back

    numbers = {name: getattr(done, name) for name in _NUMBERS}
    if json:
        checked = done.verification.as_json() if done.verification else None
        waiting = held_back(done.version)
        print_json({"path": str(done.version), **numbers, "held_back": waiting, "verification": checked})
        return
    if done.verification is None:
        results.print(f"nothing changed: {done.version} stays", markup=False)
        return
    print_verification(done.verification)
    told = ", ".join(f"{count:,} {name}" for name, count in numbers.items())
    results.print(f"published {done.version}: {told}", markup=False)
    print_held_back(done.version)
