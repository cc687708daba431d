"""`genre report` and `genre board`: a run as one HTML file, or in TensorBoard."""

import contextlib
import io
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import load_tensorflow, progress, results, say
from genre_tf.errors import FailureError, InputError


def report(
    run: Annotated[Path, typer.Argument(help="Run folder that `genre train` wrote.")],
    split: Annotated[str, typer.Option(help="Split that `genre evaluate` measured.")] = "dev",
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: RUN/reports/report-SPLIT.html.")
    ] = None,
) -> None:
    """Write a report of a run as one HTML file: whether it is good, what readers get, and the numbers.

    The file works without a network and prints well. Run `genre evaluate` first.

    Example: genre report runs/mind
    """
    load_tensorflow(look_for_devices=False)
    from genre_tf.reporting.html_report import write_html

    file, lines = write_html(run, split, out)
    for line in lines:
        say(line)
    results.print(str(file))


def board(
    runs: Annotated[Path, typer.Argument(help="Run folder, or a folder of runs to compare.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; anyone who can reach it can read the logs.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 6006,
) -> None:
    """Show one run, or several side by side, in TensorBoard until Ctrl-C.

    Start with Custom Scalars: its charts show training and validation together, one group per stage.

    Example: genre board runs/mind
    """
    logs = logs_of(runs)
    load_tensorflow(look_for_devices=False)
    address = _start(logs, host, port)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    results.print(f"TensorBoard: {address}  (Ctrl-C ends it)", markup=False)
    results.file.flush()
    ended.wait()
    progress.print("TensorBoard ended")


def logs_of(runs: Path) -> Path:
    """The folder for TensorBoard to read.

    Args:
        runs: a run folder, or a folder of runs.

    Returns:
        The run's `logs`, or the folder of runs itself.

    Raises:
        InputError: it contains no logs.
    """
    if not runs.is_dir():
        raise InputError(f"{runs} is not a folder; give a run folder, or a folder of runs")
    logs = runs / "logs" if (runs / "config.toml").is_file() else runs
    if next(logs.rglob("events.out.tfevents.*"), None) is None:
        raise InputError(f"{runs} has no TensorBoard logs; `genre train` and `genre evaluate` write them")
    return logs


def _start(logs: Path, host: str, port: int) -> str:
    """Start TensorBoard, which runs in a thread until the process ends; returns its URL."""
    from tensorboard import default, program
    from tensorboard.util import tb_logging

    tb_logging.get_logger().setLevel("ERROR")
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=[None], logdir=str(logs), host=host, port=port or None)
    if not port:
        board.flags.port = 0
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it only announces that it loads logs fast
            return str(board.launch())
    except program.TensorBoardServerException as error:
        raise InputError(f"{error.msg} Give another --host or --port") from None
    except (OSError, RuntimeError) as error:
        raise FailureError(f"TensorBoard did not start: {error}") from None
