"""Where the command line writes: results on stdout, everything else on stderr; TensorFlow is kept silent."""

import atexit
import gc
import io
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.status import Status

# C0 except tabs and line ends, DEL, C1, and what overrides or isolates the direction of text: a title could
# rewrite the screen with them, or show other letters than it has.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def without_controls(text: str) -> str:
    """The text with U+FFFD in the place of each control character and each override of its direction.

    Example:
        >>> without_controls("a" + chr(27) + "[2J")
        'a\ufffd[2J'
    """
    return _CONTROLS.sub("\ufffd", text)


class SafeConsole(Console):
    """A console that prints texts as they are, but none can control the terminal; its own styles can.

    Without markup, as a title or a path may hold `[red]`; without emoji, as rich would print
    `behaviors.tsv:100: time` as `behaviors.tsv💯 time`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, markup=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with harmless text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(without_controls(segment.text), segment.style)


# In a file or a pipe rich would break lines, and cut tables, at 80 columns without need.
progress = SafeConsole(stderr=True, soft_wrap=not (sys.stderr and sys.stderr.isatty()))
_unknown_width = not (sys.stdout and sys.stdout.isatty()) and "COLUMNS" not in os.environ
results = SafeConsole(soft_wrap=True, width=200 if _unknown_width else None)


def say(line: str) -> None:
    """Print a line of progress, however long it is."""
    progress.print(line, soft_wrap=True)


def working(what: str) -> Status:
    """A context in which the last line of progress says what is being done, such as `reading mind`."""
    return progress.status(escape(what))


def prepare_streams() -> None:
    """Let stdout write `?` for what its encoding lacks, rather than fail; Python's stderr never fails.

    What is printed to a closed stream (`>&-`) is dropped. Its number is taken, or a file that is opened later
    would get it, and with it what TensorFlow prints.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  (open until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def print_json(value: Any, indent: int | None = 2) -> None:
    """Write `value` as one JSON document on stdout, for programs; None as `indent`: on one line.

    Escapes stand for control characters, and for all but ASCII if stdout is not UTF-8.
    """
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not unicode, indent=indent, allow_nan=False)
    sys.stdout.write(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def load_tensorflow(*, look_for_devices: bool = True) -> None:
    """Import TensorFlow with its start-up messages held back; they are shown if the import fails.

    They come from C++ before any log level is read, so only the file descriptor can hold them.

    Args:
        look_for_devices: False: devices can still be configured; messages about them then come later.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        gc.disable()  # nothing is garbage while TensorFlow's modules are imported: a fifth faster
        try:
            import tensorflow

            logging.getLogger("tensorflow").setLevel(logging.ERROR)  # advice for developers
            if look_for_devices:
                tensorflow.zeros(())  # the first operation looks for devices, with messages
        except BaseException:
            held.seek(0)
            os.write(screen, held.read())
            raise
        finally:
            gc.enable()
            os.dup2(screen, 2)
            os.close(screen)
    # The collector need not go through TensorFlow's modules: it takes a second to do so at the exit.
    atexit.register(gc.freeze)
