"""Vocabularies of the `tiny` backbones: built in, or counted from given texts."""

import re
from collections import Counter
from collections.abc import Iterable

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def tiny_vocabulary(texts: Iterable[str] = (), words: int = 1000) -> list[str]:
    """A WordPiece vocabulary that can spell any English text.

    Args:
        texts: their most frequent words become tokens of their own.
        words: how many of them at most.

    Returns:
        Special tokens, characters, continuations, then words; the same for the same texts.
    """
    spelled = [*SPECIAL_TOKENS, *_PUNCTUATION, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    counted = Counter(word for text in texts for word in re.findall(r"[a-z0-9]{2,}", text.lower()))
    frequent = sorted(counted, key=lambda word: (-counted[word], word))
    return [*spelled, *frequent[:words]]
