"""Texts as they are compared: without invisible characters, each character in one form."""

import unicodedata
from typing import Any

import tensorflow as tf

_WIDE = range(0xFF01, 0xFF5F)  # full-width forms of the printable ASCII characters
_TO_ASCII = 0xFEE0
_INVISIBLE = r"\p{Cf}+"  # zero-width spaces and joiners, soft hyphens, direction marks
_SPACES = r"[\p{Zs}\t]+"


def folded(texts: Any) -> Any:
    """Undo, in the graph, what hides a word or a number from a regular expression.

    Args:
        texts: string [...], UTF-8; invalid bytes become U+FFFD.

    Returns:
        string [...]: no invisible characters; full-width letters, digits and signs as ASCII; each run of
        spaces, no-break spaces and tabs as a single space. Line breaks and case do not change.
    """
    codes = tf.strings.unicode_decode(tf.reshape(texts, [-1]), "UTF-8")  # ragged [texts, characters]
    wide = (codes.values >= _WIDE.start) & (codes.values < _WIDE.stop)
    codes = codes.with_values(tf.where(wide, codes.values - _TO_ASCII, codes.values))
    text = tf.strings.regex_replace(tf.strings.unicode_encode(codes, "UTF-8"), _INVISIBLE, "")
    return tf.reshape(tf.strings.regex_replace(text, _SPACES, " "), tf.shape(texts))


def folded_word(word: str) -> str:
    """A word of an operator's list, folded like the texts."""
    seen = (character for character in word if unicodedata.category(character) != "Cf")
    narrow = (chr(ord(one) - _TO_ASCII) if ord(one) in _WIDE else one for one in seen)
    return " ".join("".join(narrow).split())
