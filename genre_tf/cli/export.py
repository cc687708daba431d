"""`genre export`, `verify`, `refresh`: versions of served models; `to-transformers`: a folder for PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from genre_tf.cli.console import load_tensorflow, print_json, progress, results, say, working
from genre_tf.cli.options import Json, MaxBadRows, Models, Overwrite, Run
from genre_tf.environment import prefer_onednn
from genre_tf.errors import FailureError, InputError
from genre_tf.export.publishing import check_models_path

if TYPE_CHECKING:
    from genre_tf.export.refreshing import Refreshed
    from genre_tf.export.verification import Verification

MaxAgeHours = Annotated[
    str | None,
    typer.Option(
        help="Age in hours beyond which an article is recommended only while it is still clicked; `none`"
        ": no limit. Default: the age below which 99 % of the run's newest clicks fall. Histories and "
        "`score` accept articles of any age."
    ),
]
SafetyListFile = Annotated[
    Path | None,
    typer.Option(
        help="File that replaces the default list of unsafe words: one word or phrase per line, or re: "
        "and a regular expression (RE2). Personal data are unsafe in any case."
    ),
]
Index = Annotated[
    Literal["exact", "partitioned"],
    typer.Option(
        help="exact searches all articles; partitioned, for more than a million, searches only the "
        "--probes blocks of neighbours that are nearest to the reader."
    ),
]
_NUMBERS = ("added", "changed", "expired", "articles", "recommendable")
AllowPoorWriter = Annotated[
    bool,
    typer.Option(
        "--allow-poor-writer",
        help="Export the writer without measuring its headlines. Otherwise it is refused if they are "
        "less fluent, grounded or on the topic than [generation.gate] of the run's config.toml asks for.",
    ),
]
ShowUnsafe = Annotated[
    bool,
    typer.Option(help="Serve unsafe texts too, marked as unsafe; by default they are held back."),
]


def parse_age_limit(text: str | None) -> float | None:
    """Hours, or None where there is no limit."""
    if text is None or text == "none":
        return None
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        raise InputError(f"--max-age-hours must be a number above 0, or none; got {text!r}")
    return hours


Tpu = Annotated[
    bool,
    typer.Option(
        "--tpu", help="genre_generator for TPUs: XLA compiles its decoding (fixed shapes, slow on CPUs)."
    ),
]


def export(
    run: Run,
    models: Annotated[Path, typer.Argument(help="Folder of served models; created if missing.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="MIND-format data set whose articles are indexed, with the counters of its logs; "
            "repeatable. Default: the articles that the run was trained on."
        ),
    ] = None,
    k: Annotated[int, typer.Option(help="Number of articles that `recommend` returns.")] = 10,
    retrieve: Annotated[
        int, typer.Option(help="Number of articles that the towers pass to the ranker.")
    ] = 300,
    max_age_hours: MaxAgeHours = None,
    max_per_category: Annotated[
        int | None, typer.Option(help="Maximum number of recommended articles of one category.")
    ] = None,
    diversity: Annotated[
        float,
        typer.Option(
            help="Lambda of maximal marginal relevance; below 1, articles similar to better ones rank lower."
        ),
    ] = 1.0,
    exploration: Annotated[
        float,
        typer.Option(help="Share of the answers whose last place goes to a new article without clicks."),
    ] = 0.1,
    index: Index = "exact",
    probes: Annotated[int, typer.Option(help="Blocks of 128 articles searched in a partitioned index.")] = 64,
    safety_list: SafetyListFile = None,
    allow_poor_writer: AllowPoorWriter = False,
    show_unsafe: ShowUnsafe = False,
    tpu: Tpu = False,
    max_bad_rows: MaxBadRows = 0,
    json: Json = False,
) -> None:
    """Export a run as the servables genre_recommender and genre_generator, for TensorFlow Serving.

    Each is published as the next version, whole or not at all, once it has answered every recorded request in
    a fresh process as the Python models do. The server's configuration files are written beside them; an
    existing batching.config or monitoring.config is kept. Warmup covers the batch sizes that batching.config
    lists; if it lists none, 1, 2, 4 and so on up to its largest, but at most 32.

    Example: genre export runs/mind models
    """
    check_models_path(models)
    load_tensorflow()
    from genre_tf.export.exporting import ExportOptions, export_run
    from genre_tf.export.models_config import CONFIG_NAME, read_models_config
    from genre_tf.export.server_config import USUAL_SIZES, warmup_sizes, write_configuration
    from genre_tf.funnel.rules import Rules
    from genre_tf.funnel.search import PartitionedOptions

    sizes = warmup_sizes(models) or USUAL_SIZES  # perhaps edited by hand: warmup follows it
    options = ExportOptions(
        k=k,
        retrieve=retrieve,
        rules=Rules(
            max_age_hours=parse_age_limit(max_age_hours),
            max_per_category=max_per_category,
            diversity=diversity,
            exploration=exploration,
        ),
        learn_age_limit=max_age_hours is None,
        batch_sizes=sizes,
        max_bad_rows=max_bad_rows,
        safety_list=safety_list,
        allow_poor_writer=allow_poor_writer,
        show_unsafe=show_unsafe,
        tpu=tpu,
        partitioned=None if index == "exact" else PartitionedOptions(probes=probes),
    )
    if (models / CONFIG_NAME).is_file():
        read_models_config(models / CONFIG_NAME)  # report a damaged file now, not after minutes of work
    published = export_run(run, models, data or [], options, say)
    files = write_configuration(models, [version.parent.name for version, _ in published], sizes[-1])
    _print_published(published, files, json)


def _print_published(published: "list[tuple[Path, Verification]]", files: list[Path], json: bool) -> None:
    if json:
        from genre_tf.serving.operations.version_choice import held_back

        versions = [
            {"path": str(path), **checked.as_json(), "held_back": held_back(path)}
            for path, checked in published
        ]
        print_json({"versions": versions, "configuration": [str(file) for file in files]})
        return
    for version, checked in published:
        _print_verification(checked)
        results.print(f"published {version}")
    _print_held_back(*(version for version, _ in published))
    results.print("server files: " + ", ".join(str(file) for file in files))


def _print_held_back(*versions: Path) -> None:
    """Print which published versions no server will load with this `models.config`, and what to do."""
    from genre_tf.serving.operations.version_choice import held_back

    for version in versions:
        if told := held_back(version):
            results.print(told)


def _print_verification(verification: "Verification") -> None:
    """Print a table of one verified version, and every fault under it."""
    title = f"{verification.servable} version {verification.version}"
    table = Table("signature", title=title, title_justify="left")
    for column in ("requests", "warmups", "rows", "greatest difference"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for name, check in verification.signatures.items():
        counts = (str(check.requests), str(check.warmups), str(check.rows), f"{check.difference:.1e}")
        table.add_row(name, *counts, "equal" if not check.faults else f"{len(check.faults)} faults")
    results.print(table)
    gate = "portable" if not verification.violations else f"{len(verification.violations)} violations"
    results.print(f"gate: {gate}")
    for line in verification.all_faults():
        results.print(f"  {line}")


def verify(
    models: Annotated[
        Path,
        typer.Argument(help="Folder that `genre export` wrote: MODELS, MODELS/NAME or MODELS/NAME/VERSION."),
    ],
    json: Json = False,
) -> None:
    """Check exported models: portable ops only, and every signature equal to the Python model.

    The newest version of each servable answers its recorded requests in a session of a fresh process that
    imports only TensorFlow and TensorFlow Text. Exit status 0 if all checks pass, 1 if not.

    Example: genre verify models
    """
    check_models_path(models)
    load_tensorflow()
    from genre_tf.export.verification import find_versions, verify_version

    checked = []
    for version in find_versions(models):
        progress.print(f"checking {version}")
        checked.append(verify_version(version))
    if json:
        print_json({"models": [verification.as_json() for verification in checked]})
    else:
        for verification in checked:
            _print_verification(verification)
    failed = [f"{entry.servable} version {entry.version}" for entry in checked if not entry.passed]
    if failed:
        raise FailureError(f"{', '.join(failed)}: must not be served; the table says why. Export again.")


def refresh(
    models: Models,
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
    from_version: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Version to build on. Default: the highest version that servers load by models.config ("
            "after a rollback this is not the newest); without models.config, the newest.",
        ),
    ] = None,
    max_bad_rows: MaxBadRows = 0,
    json: Json = False,
) -> None:
    """Write the next version of genre_recommender with new articles and counters; only read the live one.

    New articles are encoded with the served model itself; neither the run nor its data are needed. The
    version is published whole or not at all, once it is verified like an export. If articles are new or
    withdrawn, genre_generator gets a new version too, which answers questions from them.

    Example: genre refresh models --news today/news.tsv --behaviors today/behaviors.tsv --expire 72
    """
    from genre_tf.contract import GENERATOR, RECOMMENDER
    from genre_tf.export.verification import refresh_process

    check_models_path(models)
    prefer_onednn()
    with refresh_process(news) as fresh:
        load_tensorflow()  # in parallel with the fresh process, which loads it too
        from genre_tf.export import refreshing
        from genre_tf.export.server_config import warmup_sizes
        from genre_tf.serving.operations.version_choice import served_version

        changes = refreshing.Changes(
            news=news,
            behaviors=behaviors,
            expire=None if expire is None else refreshing.parse_expiry(expire),
            withdraw=frozenset(withdraw or ()),
            max_bad_rows=max_bad_rows,
        )
        folder = models.parent if models.name == RECOMMENDER else models
        base = from_version or served_version(folder, RECOMMENDER)
        generator = served_version(folder, GENERATOR)
        sizes = warmup_sizes(folder)
        done = refreshing.refresh(models, changes, say, base, sizes, fresh, evidence_base=generator)
    _print_refreshed(done, json)


def _print_refreshed(done: "Refreshed", json: bool) -> None:
    from genre_tf.serving.operations.version_choice import held_back

    numbers = {name: getattr(done, name) for name in _NUMBERS}
    if json:
        told = {
            "path": str(done.version),
            **numbers,
            "evidence": str(done.evidence) if done.evidence else None,
            "held_back": held_back(done.version),
            "verification": done.verification.as_json() if done.verification else None,
        }
        print_json(told)
    elif done.verification is None:
        results.print(f"nothing changed: {done.version} stays")
    else:
        _print_verification(done.verification)
        counts = ", ".join(f"{count:,} {name}" for name, count in numbers.items())
        results.print(f"published {done.version}: {counts}")
        if done.evidence:
            results.print(f"published {done.evidence}: answers from the new articles")
        _print_held_back(*filter(None, (done.version, done.evidence)))


def to_transformers(
    run: Run,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    stage: Annotated[
        Literal["retrieval", "ranking", "generation"],
        typer.Option(help="Stage whose language model is saved."),
    ],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Save a fine-tuned BERT, GPT-2 or Llama as a folder that Hugging Face transformers loads.

    Example: genre to-transformers runs/mind my-bert --stage ranking

    LoRA is merged into the kernels, and the folder is read back and compared before it appears. PyTorch's
    AutoModel.from_pretrained(OUT) loads it, and genre accepts it as a backbone.
    """
    load_tensorflow()
    from genre_tf.export.transformers_folder import write_transformers_folder

    with working(f"reading {run}"):
        difference = write_transformers_folder(run, stage, out, overwrite)
    if json:
        print_json({"out": str(out), "stage": stage, "largest_difference": difference})
    else:
        results.print(f"{out}: read back, equal to the run within {difference:.1g}")
