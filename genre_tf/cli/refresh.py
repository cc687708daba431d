"""`genre refresh MODELS`: new articles, new counters and expired articles, without training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results, say
from genre_tf.environment import prefer_onednn

if TYPE_CHECKING:
    from genre_tf.export.fresh_process import FreshProcess
    from genre_tf.export.refreshing import Changes, Refreshed

_NUMBERS = ("added", "changed", "expired", "articles", "recommendable")

FromVersion = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Version to build on. Default: the highest version that servers load by models.config (after a "
        "rollback this is not the newest); without models.config, the newest.",
    ),
]


def refresh(
    models: Annotated[Path, typer.Argument(help="Folder of served models that `genre export` wrote.")],
    news: Annotated[
        Path | None,
        typer.Option(
            help="News file in MIND's format. Articles that are not in the index are encoded and added; "
            "articles with a changed title are encoded again; others are skipped."
        ),
    ] = None,
    behaviors: Annotated[
        Path | None,
        typer.Option(
            help="Log in MIND's format since the last export or refresh; its clicks and views are added to "
            "the counters."
        ),
    ] = None,
    expire: Annotated[
        str | None,
        typer.Option(
            help="New age limit: a number of hours before the end of the log, or a date such as 2019-11-15. "
            "Articles published (or first shown) earlier are recommended only while they are still clicked. "
            "Histories and `score` accept them as before."
        ),
    ] = None,
    withdraw: Annotated[
        list[str] | None,
        typer.Option(help="Id of an article that must never be recommended again; repeatable."),
    ] = None,
    from_version: FromVersion = None,
    max_bad_rows: Annotated[int, typer.Option(help="Faulty rows that may be skipped in each file.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the next version of genre_recommender with new articles and counters; only read the live one.

    New articles are encoded with the served model itself; neither the run nor its data are needed. The
    version is published whole or not at all, once it is verified like an export. genre_generator keeps the
    articles that it writes answers from until the next export.

    Example: genre refresh models --news today/news.tsv --behaviors today/behaviors.tsv --expire 72
    """
    from genre_tf.export.fresh_process import refresh_process
    from genre_tf.export.publishing import check_models_path

    check_models_path(models)
    prefer_onednn()
    with refresh_process(news) as fresh:
        load_tensorflow()  # in parallel with the fresh process, which loads it too
        from genre_tf.export.refreshing import Changes, parse_expiry

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
    from genre_tf.contract import RECOMMENDER
    from genre_tf.export.refreshing import refresh
    from genre_tf.serving.operations.configuration import warmup_sizes
    from genre_tf.serving.operations.version_choice import served_version

    folder = models.parent if models.name == RECOMMENDER else models
    return refresh(
        models,
        changes,
        say,
        from_version or served_version(folder, RECOMMENDER),
        warmup_sizes(folder),
        fresh,
    )


def _print_refreshed(done: "Refreshed", json: bool) -> None:
    from genre_tf.cli.export import print_held_back
    from genre_tf.cli.verify import print_verification
    from genre_tf.serving.operations.version_choice import held_back

    numbers = {name: getattr(done, name) for name in _NUMBERS}
    if json:
        checked = done.verification.as_json() if done.verification else None
        waiting = held_back(done.version)
        print_json({"path": str(done.version), **numbers, "held_back": waiting, "verification": checked})
        return
    if done.verification is None:
        results.print(f"nothing changed: {done.version} stays")
        return
    print_verification(done.verification)
    told = ", ".join(f"{count:,} {name}" for name, count in numbers.items())
    results.print(f"published {done.version}: {told}")
    print_held_back(done.version)
