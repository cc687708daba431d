"""Titles and articles on the command line, given as text or as the name of a text file."""

import os
import re
from pathlib import Path

from genre_tf.errors import InputError

# One word that ends as a text file or begins as a path does; "AC/DC" and "24/7" are texts.
_FILE_NAME = re.compile(r"\S+\.(?:txt|md|tsv)|(?:~|\.{0,2})/\S+", re.IGNORECASE)


def read_text(value: str) -> str:
    r"""The text of the file that `value` names, else `value` itself, in which `\n` means a line break.

    Raises:
        InputError: the file is not UTF-8 or cannot be read, or `value` looks like a file name and there is no
            such file.
    """
    if not value or "\n" in value or len(value) > 4096 or not os.path.isfile(value):  # noqa: PTH113
        if _FILE_NAME.fullmatch(value):
            raise InputError(f"there is no file {value}; give an existing one, or the text itself")
        return value.replace("\\n", "\n")
    try:
        return Path(value).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{value} cannot be read as UTF-8 text: {error}") from error


def read_titles(value: str) -> list[str]:
    """The titles in a text, one per line; blank lines are skipped."""
    # Not splitlines(): it would also end a title at characters such as U+2028, which titles may hold.
    return [line.strip() for line in read_text(value).split("\n") if line.strip()]


def read_numbers(value: str, option: str) -> list[float]:
    """The numbers in a text, separated by spaces.

    Raises:
        InputError: a word is not a number.
    """
    try:
        return [float(word) for word in value.split()]
    except ValueError as error:
        raise InputError(f"{option} must be numbers separated by spaces; got {value!r}") from error
