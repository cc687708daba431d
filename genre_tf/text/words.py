"""Words of a text in any language: separated by spaces, or single characters in scripts without spaces."""

import re

# Ideographs, Hiragana and Katakana. Korean has spaces between words; Thai and similar scripts have none, and
# are not split into words here.
SPACELESS = r"\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACELESS = re.compile(f"[{SPACELESS}]")
WORD = re.compile(rf"[{SPACELESS}]|[^\W_{SPACELESS}]+")
"""A word of letters and digits, or one ideograph or kana."""

_TOKEN = re.compile(rf"[{SPACELESS}]|[^\s{SPACELESS}]+")
# A Chinese word has 1.6 to 1.7 characters on average in running text.
_WORDS_A_CHARACTER = 0.6


def words_of(text: str) -> list[str]:
    """Words of letters and digits, with their case; ideographs and kana one by one."""
    return WORD.findall(text)


def written_tokens(text: str) -> list[str]:
    """Text between spaces, with punctuation; ideographs and kana one by one."""
    return _TOKEN.findall(text)


def length_in_words(text: str) -> float:
    """Length of a text in words; an ideograph or kana counts 0.6, because nothing separates words there."""
    characters = len(_SPACELESS.findall(text))
    return len(_TOKEN.findall(text)) - (1 - _WORDS_A_CHARACTER) * characters


def beginning(text: str, length: int) -> str:
    """The first words of a text, as many as `length` of `length_in_words`."""
    end, so_far = 0, 0.0
    for token in _TOKEN.finditer(text):
        so_far += _WORDS_A_CHARACTER if _SPACELESS.match(token.group()) else 1.0
        if so_far > length + 1e-9:
            break
        end = token.end()
    return text[:end].lstrip()
