"""Files of Hugging Face folders, with readable errors."""

import json
from pathlib import Path
from typing import Any

from genre_tf.errors import InputError


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file.

    Raises:
        InputError: the file is not JSON, or does not contain an object.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not valid JSON ({error}). Fetch the file again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a JSON object. Fetch the file again.")
    return content


def read_text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends; other text is an `InputError`."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    # Not splitlines(): a token may be a character that Python treats as the end of a line.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
