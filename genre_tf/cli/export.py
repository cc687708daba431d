"""`genre export RUN MODELS`: versioned SavedModels, verified before they are published."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genre_tf.cli.console import load_tensorflow, print_json, results, say
from genre_tf.errors import InputError
from genre_tf.export.publishing import check_models_path

if TYPE_CHECKING:
    from genre_tf.export.verification import Verification

MaxAgeHours = Annotated[
    str | None,
    typer.Option(
        help="Age in hours beyond which an article is recommended only while it is still clicked; `none`: "
        "no limit. Default: the age below which 99 % of the run's newest clicks fall. Histories and `score` "
        "accept articles of any age."
    ),
]
Exploration = Annotated[
    float,
    typer.Option(help="Share of the answers whose last place goes to a new article without clicks."),
]
MaxPerCategory = Annotated[
    int | None, typer.Option(help="Maximum number of recommended articles of one category.")
]
Diversity = Annotated[
    float,
    typer.Option(
        help="Lambda of maximal marginal relevance; below 1, articles similar to better ones rank lower."
    ),
]
Index = Annotated[
    Literal["exact", "partitioned"],
    typer.Option(
        help="exact searches all articles; partitioned, for more than a million, searches only the --probes "
        "blocks of neighbours that are nearest to the reader."
    ),
]
Probes = Annotated[int, typer.Option(help="Blocks of 128 articles searched in a partitioned index.")]
SafetyListFile = Annotated[
    Path | None,
    typer.Option(
        help="File that replaces the default list of unsafe words: one word or phrase per line, or re: and "
        "a regular expression (RE2). Personal data are unsafe in any case."
    ),
]


def parse_age_limit(text: str | None) -> float | None:
    """Hours, or None where there is no limit.

    Raises:
        InputError: it is neither a number above 0 nor `none`.
    """
    if text is None or text == "none":
        return None
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < float("inf"):
        raise InputError(f"--max-age-hours must be a number above 0, or none; got {text!r}")
    return hours


def export(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
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
    max_per_category: MaxPerCategory = None,
    diversity: Diversity = 1.0,
    exploration: Exploration = 0.1,
    index: Index = "exact",
    probes: Probes = 64,
    safety_list: SafetyListFile = None,
    max_bad_rows: Annotated[int, typer.Option(help="Faulty rows that may be skipped in each file.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
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
    from genre_tf.funnel.partitioned_index import PartitionedOptions
    from genre_tf.funnel.rules import Rules
    from genre_tf.serving.operations.configuration import USUAL_SIZES, warmup_sizes, write_configuration
    from genre_tf.serving.operations.models_config import CONFIG_NAME, read_models_config

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
        partitioned=None if index == "exact" else PartitionedOptions(probes=probes),
    )
    if (models / CONFIG_NAME).is_file():
        read_models_config(models / CONFIG_NAME)  # report a damaged file now, not after minutes of work
    published = export_run(run, models, data or [], options, say)
    files = write_configuration(models, [version.parent.name for version, _ in published], sizes[-1])
    _print_published(published, files, json)


def _print_published(published: "list[tuple[Path, Verification]]", files: "list[Path]", json: bool) -> None:
    from genre_tf.cli.verify import print_verification
    from genre_tf.serving.operations.version_choice import held_back

    if json:
        versions = [
            {"path": str(path), **checked.as_json(), "held_back": held_back(path)}
            for path, checked in published
        ]
        print_json({"versions": versions, "configuration": [str(file) for file in files]})
        return
    for version, checked in published:
        print_verification(checked)
        results.print(f"published {version}")
    print_held_back(*(version for version, _ in published))
    results.print("server files: " + ", ".join(str(file) for file in files))


def print_held_back(*versions: Path) -> None:
    """Print which published versions no server will load with this `models.config`, and what to do."""
    from genre_tf.serving.operations.version_choice import held_back

    for version in versions:
        if told := held_back(version):
            results.print(told)
