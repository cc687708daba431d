"""TensorBoard for a run's logs, in this process."""

import contextlib
import io
from pathlib import Path

from genre_tf.errors import FailureError, InputError


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


def start_board(logs: Path, host: str, port: int) -> str:
    """Start TensorBoard; it runs in a thread until the process ends.

    Args:
        logs: folder of logs.
        host: address to listen on.
        port: port to listen on; 0: any free one.

    Returns:
        Its URL.

    Raises:
        InputError: the port is taken, or the address does not belong to this machine.
        FailureError: TensorBoard did not start.
    """
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
