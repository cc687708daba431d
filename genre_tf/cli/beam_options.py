"""Options of the verbs that can run on Apache Beam."""

from typing import TYPE_CHECKING, Annotated

import typer

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
