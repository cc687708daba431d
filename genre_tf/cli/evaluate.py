"""`genre evaluate`: all metrics of a run; `report` and `board`: a run as one HTML file, or in TensorBoard."""

import contextlib
import io
import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from genre_tf.cli.console import load_tensorflow, print_json, progress, results, say
from genre_tf.cli.options import DataSet, Json, Port, Run, offered, takes
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation import EvaluationOptions


@takes(given=offered(EvaluationOptions))
def evaluate(
    run: Run,
    data: DataSet,
    split: Annotated[str, typer.Option(help="Labelled split of the data set.")] = "dev",
    *,
    given: dict[str, Any],
    as_json: Json = False,
) -> None:
    """Measure a run on a split; write the report to RUN/reports and its numbers to RUN/logs/evaluation.

    Example: genre evaluate runs/mind --data mind --split dev
    """
    load_tensorflow()
    from genre_tf.evaluation.evaluate import evaluate_run
    from genre_tf.reporting.board import check_place, keep_evaluation, log_models
    from genre_tf.reporting.tables import print_report
    from genre_tf.training.judges import train_halves

    if (run / "config.toml").is_file():
        check_place(run)

    options = EvaluationOptions(**given)
    found = evaluate_run(
        run,
        data,
        split,
        options,
        say,
        lambda measured: log_models(measured, run, split),
        lambda: train_halves(run, say),
    )
    report, files = keep_evaluation(found, run)
    if as_json:
        print_json(report)
    else:
        print_report(report, results)
    say(f"written: {', '.join(map(str, files))}; next: genre board {run}, genre report {run}")


def report(
    run: Run,
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
    port: Port = 6006,
) -> None:
    """Show one run, or several side by side, in TensorBoard until Ctrl-C.

    Start with Custom Scalars: its charts show training and validation together, one group per stage.

    Example: genre board runs/mind
    """
    logs = logs_of(runs)
    load_tensorflow(look_for_devices=False)
    from tensorboard import default, program
    from tensorboard.util import tb_logging

    tb_logging.get_logger().setLevel("ERROR")
    tensorboard = program.TensorBoard(plugins=default.get_plugins())
    tensorboard.configure(argv=[None], logdir=str(logs), host=host, port=port or None)
    if not port:
        tensorboard.flags.port = 0
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it only announces that it loads logs fast
            address = tensorboard.launch()
    except program.TensorBoardServerException as error:
        raise InputError(f"{error.msg} Give another --host or --port") from None
    except (OSError, RuntimeError) as error:
        raise FailureError(f"TensorBoard did not start: {error}") from None
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    results.print(f"TensorBoard: {address}  (Ctrl-C ends it)")
    results.file.flush()
    ended.wait()
    progress.print("TensorBoard ended")


def logs_of(runs: Path) -> Path:
    """The folder for TensorBoard to read: a run's `logs`, or the folder of runs itself."""
    if not runs.is_dir():
        raise InputError(f"{runs} is not a folder; give a run folder, or a folder of runs")
    logs = runs / "logs" if (runs / "config.toml").is_file() else runs
    if next(logs.rglob("events.out.tfevents.*"), None) is None:
        raise InputError(f"{runs} has no TensorBoard logs; `genre train` and `genre evaluate` write them")
    return logs
