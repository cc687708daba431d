"""Texts as they are compared: what a reader does not see is gone, and one sign is written one way."""

import unicodedata
from typing import Any

import tensorflow as tf

_WIDE = range(0xFF01, 0xFF5F)  # full-width forms of the printable ASCII signs
_TO_ASCII = 0xFEE0
_INVISIBLE = r"\p{Cf}+"  # zero-width spaces and joiners, soft hyphens, marks of direction
_SPACES = r"[\p{Zs}\t]+"


def folded(texts: Any) -> Any:
    """Undo what hides a word or a number from a regular expression, in the graph.

    Args:
        texts: string [...], UTF-8; what is not comes out with U+FFFD.

    Returns:
        string [...]: no invisible characters, full-width letters, digits and signs as ASCII, a single plain
        space for each run of spaces, no-break spaces and tabs. Line breaks and case stay.
    """
    codes = tf.strings.unicode_decode(tf.reshape(texts, [-1]), "UTF-8")  # ragged [texts, characters]
    wide = (codes.values >= _WIDE.start) & (codes.values < _WIDE.stop)
    codes = codes.with_values(tf.where(wide, codes.values - _TO_ASCII, codes.values))
    text = tf.strings.regex_replace(tf.strings.unicode_encode(codes, "UTF-8"), _INVISIBLE, "")
    return tf.reshape(tf.strings.regex_replace(text, _SPACES, " "), tf.shape(texts))


def folded_word(word: str) -> str:
    """A word of an operator's list, folded as the texts are."""
    seen = (character for character in word if unicodedata.category(character) != "Cf")
    narrow = (chr(ord(one) - _TO_ASCII) if ord(one) in _WIDE else one for one in seen)
    return " ".join("".join(narrow).split())
