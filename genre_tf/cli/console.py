"""Where the command line writes: results on stdout, everything else on stderr."""

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


def print_json(value: Any) -> None:
    """Write `value` as one JSON document on stdout, plain, for programs."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write("\n")
