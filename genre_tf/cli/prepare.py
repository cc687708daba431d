"""`genre prepare`: the training log as columns; and the options of the verbs that can run on Apache Beam."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from genre_tf.cli.console import print_json, progress, results, say
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.data.beam.runners import Runner

RunnerName = Annotated[
    str | None,
    typer.Option(
        "--runner",
        help="Beam runner: DirectRunner (this machine), DataflowRunner, FlinkRunner or SparkRunner; needs "
        "genre-tf\\[beam]. If not given, this process does the work.",
    ),
]
RunnerOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--runner-option",
        metavar="NAME=VALUE",
        help="Option for Beam's PipelineOptions; repeatable. Give temp_location=URL if the workers cannot "
        "read this machine's files.",
    ),
]


def beam_runner(name: str | None, options: list[str] | None) -> "Runner | None":
    """The chosen runner; None: this process does the work.

    Raises:
        InputError: options without a runner.
    """
    from genre_tf.data.beam.runners import Runner

    if name is None:
        if options:
            raise InputError(f"--runner-option {options[0]} was given without --runner; name a runner too")
        return None
    return Runner(name, tuple(options or ()))


MAX_PRINTED_FAULTS = 50


def prepare(
    data: Annotated[Path, typer.Argument(help="Data set folder, with MIND's two files in its train/.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; not changed if it is up to date.")],
    max_history: Annotated[int, typer.Option(help="Newest clicks kept of each history.")] = 50,
    validation_share: Annotated[
        float, typer.Option(help="Newest share of the log, held out for validation.")
    ] = 0.1,
    max_bad_rows: Annotated[
        int, typer.Option(help="Faulty rows that may be skipped; 0 stops at the first.")
    ] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a folder that is out of date.")
    ] = False,
    runner: RunnerName = None,
    runner_option: RunnerOptions = None,
    json: Annotated[bool, typer.Option("--json", help="The manifest as JSON, for programs.")] = False,
) -> None:
    """Turn the training log into columns that training reads batch by batch: Arrow files and a manifest.

    The same data and options give the same bytes, in this process and with any Beam runner.

    Example: genre prepare mind prepared
    """
    with progress.status(escape(f"preparing {data}")):
        from genre_tf.data.records import prepare as write_folder

        prepared = write_folder(
            data,
            out,
            max_history=max_history,
            validation_share=validation_share,
            max_bad_rows=max_bad_rows,
            overwrite=overwrite,
            runner=beam_runner(runner, runner_option),
        )
    manifest = prepared.manifest
    for fault in manifest["faults"][:MAX_PRINTED_FAULTS]:
        place = f"{fault['file']}:{fault['line']}: {fault['field']}"
        say(f"skipped {place}: {fault['message']}")
    if len(manifest["faults"]) > MAX_PRINTED_FAULTS:
        progress.print("... the other skipped rows are listed in manifest.json")
    if json:
        print_json(manifest)
        return
    train, validation = manifest["splits"]["train"], manifest["splits"]["validation"]
    results.print(
        f"{out}: {'prepared' if prepared.written else 'up to date'}: {manifest['articles']:,} articles, "
        f"{train['impressions']:,} training and {validation['impressions']:,} validation impressions, "
        f"{train['clicks'] + validation['clicks']:,} clicks, {manifest['bad_rows']:,} bad rows skipped"
    )
