"""The tone and topic that a text should have: what a writer is told, and which texts have them."""

import re
from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.contract import TONES
from genre_tf.generation.grounding import folded
from genre_tf.text.words import SPACELESS

_INSTRUCTIONS = {
    "neutral": "Use a neutral and factual tone.",
    "plain": "Use short and simple words.",
    "lively": "Use a lively and exciting tone!",
}
_MOST_TOPIC = 80  # characters of a topic that are read
_SAME = 1e-4  # cosines that differ by less are equal: they are rounded differently in other batches
_LONG_WORD = r"\p{L}{11,}"  # of the titles of a newspaper, one in six has such a word
_LONG_SENTENCE = (
    r"(?:[^\s.!?]+[\s]+){13,}[^\s.!?]|[^\s。！？，,.!?]{25,}"  # in words; in Chinese, in characters
)


def _expression() -> str:
    """RE2 for the lively signs: words of the list, exclamation and question marks."""
    lines = Path(__file__).with_name("tone_words.txt").read_text("utf-8").splitlines()
    words = " ".join(line for line in lines if not line.startswith("#")).split()
    joined = [word for word in words if re.match(f"[{SPACELESS}]", word)]
    spaced = [word for word in words if word not in joined]
    return rf"[!?！？]|(?i)(?:^|[^\p{{L}}])(?:{'|'.join(spaced)})(?:$|[^\p{{L}}])|{'|'.join(joined)}"


_LIVELY = _expression()


def has_tone(texts: Any, tone: Any) -> Any:
    """Whether texts have the tone that each row asks for, by signs in English and Chinese.

    A lively text has an exclamation or question mark, a strong word, or a word that speaks to the reader. A
    neutral one has none of these; a plain one neither these nor a long word or sentence.

    Args:
        texts: string [batch, n].
        tone: string [batch]; any text has a tone that is not one of `TONES`.

    Returns:
        bool [batch, n].
    """
    texts = folded(tf.strings.regex_replace(texts, "’", "'"))
    lively, hard = _found(texts, _LIVELY), _found(texts, f"{_LONG_WORD}|{_LONG_SENTENCE}")
    signs = tf.stack([~lively, ~lively & ~hard, lively], axis=0)  # in the order of TONES
    asked = tf.strings.lower(tf.strings.strip(tone))[None, :] == tf.constant(TONES)[:, None]  # [tones, batch]
    return tf.reduce_all(signs | ~asked[:, :, None], axis=0)


def instruction(tone: Any, topic: Any) -> Any:
    """What to tell a writer that follows instructions, in one line: 2 x string [batch] -> string [batch]."""
    topic = tf.strings.substr(one_line(topic), 0, _MOST_TOPIC, unit="UTF8_CHAR")
    tone = tf.strings.lower(tf.strings.strip(tone))
    sentences = tf.where(topic == "", "", tf.strings.join(["Write about ", topic, "."]))
    for name, sentence in _INSTRUCTIONS.items():
        sentences = tf.where(tone == name, tf.strings.join([sentences, " ", sentence]), sentences)
    return tf.strings.strip(sentences)


def closest_half(texts: Any, topic: Any) -> Any:
    """Which texts of a row are closest to its topic, at least half: by the cosine of their vectors.

    `texts` is float32 [batch, n, D], `topic` float32 [batch, D]; the answer bool [batch, n].
    """
    texts, topic = (tf.math.l2_normalize(each, axis=-1) for each in (texts, topic))
    cosines = tf.linalg.matvec(texts, topic)  # [batch, n]
    most = tf.sort(cosines, axis=1, direction="DESCENDING")
    return cosines >= most[:, (tf.shape(cosines)[1] - 1) // 2, None] - _SAME


def one_line(text: Any) -> Any:
    """Every run of whitespace is a space: string [...] -> string [...]."""
    return tf.strings.strip(tf.strings.regex_replace(text, r"\s+", " "))


def _found(texts: Any, pattern: str) -> Any:
    return tf.strings.regex_full_match(texts, f"(?s).*(?:{pattern}).*")
