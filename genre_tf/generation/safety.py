"""Whether a text may be shown: words and patterns that the operator can replace, and personal data."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.errors import InputError

PERSONAL_DATA = (
    r"[\w.+-]+@[\w-]+\.\w+",  # e-mail
    r"\+\d[\d ().-]{6,}\d",  # telephone, international
    r"(\(\d{3}\) ?|\b\d{3}[ .-])\d{3}[ .-]\d{4}\b",  # telephone, North American
    # Street address. Public buildings too: a title held back costs less than a home address.
    r"\b\d{1,5} ([A-Z]\w+\.? ){1,3}(Street|Avenue|Ave|Road|Boulevard|Blvd|Lane|Drive|Court)\b",
)
_WORDS = """
bastard bitch blowjob bullshit cunt dickhead faggot fuck fucked fucker fucking motherfucker nigger porn
retard shit slut whore asshole
"""
DEFAULT_WORDS = tuple(_WORDS.split())
DEFAULT_PATTERNS = (
    r"(?i)\bkill (yourself|himself|herself|themselves)\b",
    r"(?i)\bhow to (make|build) a bomb\b",
)
_SPECIAL = re.compile(r"([^\w\s])")


@dataclass(frozen=True, kw_only=True)
class SafetyList:
    """What makes a text unsafe.

    Args:
        words: whole words, in any case.
        patterns: regular expressions in RE2's syntax; found anywhere in the text.
    """

    words: tuple[str, ...] = DEFAULT_WORDS
    patterns: tuple[str, ...] = (*DEFAULT_PATTERNS, *PERSONAL_DATA)

    def is_safe(self, texts: Any) -> Any:
        """Look at texts, in the graph.

        Args:
            texts: string [...], UTF-8.

        Returns:
            bool [...], true where neither a word nor a pattern is found.
        """
        unsafe: Any = tf.zeros(tf.shape(texts), tf.bool)
        for pattern in self._expressions():
            unsafe |= tf.strings.regex_full_match(texts, f"(?s).*(?:{pattern}).*")
        return ~unsafe

    def _expressions(self) -> list[str]:
        escaped = "|".join(_SPECIAL.sub(r"\\\1", word) for word in self.words)
        words = [rf"(?i)(?:^|[^\p{{L}}\p{{N}}])(?:{escaped})(?:$|[^\p{{L}}\p{{N}}])"] if escaped else []
        return words + list(self.patterns)


def read_safety_list(file: Path) -> SafetyList:
    """Read an operator's list.

    Args:
        file: UTF-8; a word or phrase per line, or `re:` and a regular expression in RE2's syntax; `#` begins
            a comment line. It replaces the default words and patterns; personal data stay unsafe.

    Raises:
        InputError: the file cannot be read, or an expression is not valid.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the safety list {file} cannot be read: {error}") from None
    words, patterns = [], list(PERSONAL_DATA)
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line.startswith("re:"):
            patterns.append(_checked(line[3:].strip(), f"{file}, line {number}"))
        elif line and not line.startswith("#"):
            words.append(line)
    return SafetyList(words=tuple(words), patterns=tuple(patterns))


def _checked(pattern: str, where: str) -> str:
    try:
        tf.strings.regex_full_match("", f"(?s).*(?:{pattern}).*")
    except tf.errors.InvalidArgumentError as error:
        raise InputError(f"{where}: {pattern!r} is no regular expression of RE2: {error.message}") from None
    return pattern
