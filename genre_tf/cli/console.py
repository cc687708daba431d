"""Where the command line writes: results on stdout, everything else on stderr."""

import io
import json
import os
import sys
from typing import Any

from rich.console import Console

# Without emoji: rich would print `behaviors.tsv:100: time` as `behaviors.tsv💯 time`.
progress = Console(stderr=True, highlight=False, emoji=False)
# In a file or a pipe rich would cut tables at 80 columns without need.
_unknown_width = not sys.stdout.isatty() and "COLUMNS" not in os.environ
results = Console(highlight=False, soft_wrap=True, emoji=False, width=200 if _unknown_width else None)


def replace_unknown_characters() -> None:
    """Let stdout write `?` for what its encoding lacks, rather than fail; Python's stderr never fails."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def print_json(value: Any, indent: int | None = 2) -> None:
    """Write `value` as one JSON document on stdout, for programs; None as `indent`: on one line.

    Escapes stand for all but ASCII if stdout is not UTF-8.
    """
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not unicode, indent=indent, allow_nan=False)
    sys.stdout.write(text + "\n")
