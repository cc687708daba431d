"""Signs of clickbait: no text that shows one is preferred when a writer learns from a click model."""

import functools
import re
from pathlib import Path


@functools.cache
def _signs() -> re.Pattern[str]:
    lines = Path(__file__).with_name("clickbait.txt").read_text("utf-8").splitlines()
    return re.compile("|".join(f"(?:{line})" for line in lines if line and not line.startswith("#")), re.I)


def is_clickbait(text: str) -> bool:
    """Whether a headline shows one of the signs listed in `clickbait.txt`.

    Example:
        >>> from genre_tf.generation.clickbait import is_clickbait
        >>> is_clickbait("You won't believe what happened next"), is_clickbait("Council raises water rates")
        (True, False)
    """
    return _signs().search(text) is not None
