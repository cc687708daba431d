"""Titles and articles on the command line: written out, or the name of a file that holds them."""

import os
from pathlib import Path

from genre_tf.errors import InputError


def read_text(value: str) -> str:
    r"""The text of a file where `value` names one, else `value`, its `\n` read as a new line.

    Raises:
        InputError: the file is not UTF-8 or cannot be read.
    """
    if not value or "\n" in value or len(value) > 4096 or not os.path.isfile(value):  # noqa: PTH113
        return value.replace("\\n", "\n")
    try:
        return Path(value).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{value} cannot be read as UTF-8 text: {error}") from error


def read_titles(value: str) -> list[str]:
    """The titles in a text, one a line; blank lines are none."""
    return [line.strip() for line in read_text(value).splitlines() if line.strip()]


def read_numbers(value: str, option: str) -> list[float]:
    """The numbers in a text, separated by spaces.

    Raises:
        InputError: one is no number.
    """
    try:
        return [float(word) for word in value.split()]
    except ValueError as error:
        raise InputError(f"{option} takes numbers separated by spaces: received {value!r}") from error
