"""`genre VERB`: the command line, which imports no TensorFlow before a verb does its work."""

import errno
import functools
import importlib
import inspect
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from genre_tf import __version__
from genre_tf.cli.console import prepare_streams, progress
from genre_tf.environment import prefer_silence
from genre_tf.errors import FailureError, InputError, StoppedError

_FILES = {
    "demo": "demo",
    "data_sets": "synth convert check prepare",
    "pretrain": "pretrain",
    "train": "train tune",
    "evaluate": "evaluate board report",
    "predict": "predict embed",
    "export": "export to-transformers verify refresh",
    "serve": "serve serving-files",
    "app": "app",
    "loop": "loop",
    "versions": "rollback label prune",
    "clients": "recommend score generate ask",
    "explain": "profile explain",
    "bench": "bench",
}
VERBS = {verb: file for file, verbs in _FILES.items() for verb in verbs.split()}
"""Each verb and its module here; the function has the name of the verb, with underscores."""

app = typer.Typer(
    name="genre",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Generative news recommendation on TensorFlow: click logs in, TensorFlow Serving out.",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"genre_tf {__version__}")
        raise typer.Exit


@app.callback()
def _before_the_verb(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def _register(name: str) -> None:
    module = importlib.import_module(f"genre_tf.cli.{VERBS[name]}")
    app.command(name)(_as_command(getattr(module, name.replace("-", "_"))))


def _as_command(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the option --quiet, which every verb has, and with a message on Ctrl-C."""

    @functools.wraps(verb)
    def run(*, quiet: bool, **options: Any) -> None:
        progress.quiet = quiet
        try:
            verb(**options)
        except KeyboardInterrupt:  # Typer would exit without a message
            raise StoppedError("interrupted", 130) from None

    option = Annotated[bool, typer.Option("--quiet", help="Print only results and errors, no progress.")]
    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
    described = inspect.signature(verb)
    run.__signature__ = described.replace(parameters=[*described.parameters.values(), quiet])  # type: ignore[attr-defined]
    run.__annotations__ = {**verb.__annotations__, "quiet": option}
    return run


def main() -> None:
    """Run the command line; errors become one or two lines and an exit status.

    Exit status: 0 done, 1 the work failed, 2 the input was wrong, 130 interrupted, 143 ended by SIGTERM.
    """
    prefer_silence()
    prepare_streams()

    def end(number: int, _: FrameType | None) -> None:
        """End as Ctrl-C does: no servers, processes or partial folders are left. A second signal ends it."""
        signal.signal(number, signal.SIG_DFL)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        # The modules of all verbs take a third of a second; only the general help needs them all.
        for name in [verb for verb in VERBS if verb in sys.argv[1:2]] or VERBS:
            _register(name)
        app()
    except InputError as error:
        _stop(error, 2)
    except FailureError as error:
        _stop(error, 1)
    except StoppedError as error:
        _stop(error, error.status)
    except KeyboardInterrupt:  # while the verbs are imported
        _stop("interrupted", 130)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)):
            _stop(f"{error.filename or 'a file'}: {reason}: check the path and its permissions", 2)
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        _stop(f"{where}{reason}{': free disk space, then repeat the command' * full}", 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(why: Exception | str, status: int) -> NoReturn:
    progress.quiet = False
    progress.print(f"genre: {why}", style="red", soft_wrap=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
