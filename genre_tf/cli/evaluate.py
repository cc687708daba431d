"""`genre evaluate`: all metrics of a run; `report` and `board`: a run as one HTML file, or in TensorBoard."""

import contextlib
import io
import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from genre_tf.cli.console import load_tensorflow, print_json, progress, results, say
from genre_tf.cli.options import DataSet, Json, MaxBadRows, Port, Run
from genre_tf.errors import FailureError, InputError

PoolRule = Literal["split", "first_seen", "published", "none"]


def evaluate(
    run: Run,
    data: DataSet,
    split: Annotated[str, typer.Option(help="Labelled split of the data set.")] = "dev",
    models: Annotated[
        str,
        typer.Option(help="Comma-separated: two_tower, ranker, ranker_counters. Default: all trained ones."),
    ] = "",
    before: Annotated[bool, typer.Option(help="Also measure the same models before training.")] = True,
    generation: Annotated[bool, typer.Option(help="Also measure the generator.")] = True,
    readers: Annotated[
        int,
        typer.Option(
            min=0, help="Readers to write for (0: none); each text is compared with one for another."
        ),
    ] = 200,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Texts per reader, of which the best-ranked is served; default: as served."
        ),
    ] = None,
    pool: Annotated[
        PoolRule,
        typer.Option(
            help="Articles that `recommend` may choose from at an impression: split: all of the split; "
            "first_seen: those shown before; published: those published before; none: skip the whole pool."
        ),
    ] = "split",
    refresh_hours: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Measure the whole pool with counters that the server refreshes only every so many hours; "
            "0: with counters that are always current.",
        ),
    ] = 0.0,
    max_bad_rows: MaxBadRows = 0,
    as_json: Json = False,
) -> None:
    """Measure a run on a split; write the report to RUN/reports and its numbers to RUN/logs/evaluation.

    Example: genre evaluate runs/mind --data mind --split dev
    """
    load_tensorflow()
    from genre_tf.evaluation.evaluate import EvaluationOptions, evaluate_run
    from genre_tf.evaluation.scoring import Measured
    from genre_tf.reporting.board import clear, log_models
    from genre_tf.reporting.keeping import check_place, keep_evaluation
    from genre_tf.reporting.tables import print_report

    options = EvaluationOptions(
        models=tuple(filter(None, (name.strip() for name in models.split(",")))),
        before=before,
        generation=generation,
        readers=readers,
        samples=samples,
        max_bad_rows=max_bad_rows,
        pool=None if pool == "none" else pool,
        refresh_hours=refresh_hours,
    )

    if (run / "config.toml").is_file():
        check_place(run)

    def look(measured: Measured) -> None:
        clear(run, split)
        log_models(measured, run, split)

    report, files = keep_evaluation(evaluate_run(run, data, split, options, say, look), run)
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
