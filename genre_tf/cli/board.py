"""`genre board`: TensorBoard on a run, or on a folder of runs."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from genre_tf.cli.console import progress, results
from genre_tf.cli.tensorflow_notes import load_tensorflow


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
    from genre_tf.reporting.board_server import logs_of, start_board

    logs = logs_of(runs)
    load_tensorflow(look_for_devices=False)
    address = start_board(logs, host, port)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    results.print(f"TensorBoard: {address}  (Ctrl-C ends it)", markup=False)
    results.file.flush()
    ended.wait()
    progress.print("TensorBoard ended")
