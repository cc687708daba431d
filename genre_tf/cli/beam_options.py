"""The options of every verb that can hand its work to an Apache Beam runner."""

from typing import TYPE_CHECKING, Annotated

import typer

from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.data.beam.runners import Runner

RunnerName = Annotated[
    str | None,
    typer.Option(
        "--runner",
        help="Beam runner that does the work: DirectRunner (this machine), DataflowRunner, FlinkRunner, "
        "SparkRunner. Needs genre-tf\\[beam]. Without it: this process.",
    ),
]
RunnerOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--runner-option",
        metavar="NAME=VALUE",
        help="For Beam's PipelineOptions; repeatable. temp_location=URL where the workers do not see this "
        "machine's files.",
    ),
]


def beam_runner(name: str | None, options: list[str] | None) -> "Runner | None":
    """The runner that was asked for; None for this process.

    Raises:
        InputError: options without a runner.
    """
    from genre_tf.data.beam.runners import Runner

    if name is None:
        if options:
            raise InputError(f"--runner-option {options[0]} was given without --runner; name a runner too")
        return None
    return Runner(name, tuple(options or ()))
