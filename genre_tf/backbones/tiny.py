"""Vocabularies of the `tiny` backbones: built in, or built from given texts."""

from collections import Counter
from collections.abc import Iterable

from genre_tf.text.words import words_of

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def tiny_vocabulary(texts: Iterable[str] = (), words: int = 1000) -> list[str]:
    """A WordPiece vocabulary that can spell any English text; others if the given texts have the characters.

    Args:
        texts: their most frequent words become tokens.
        words: maximum number of such words.

    Returns:
        Special tokens, characters, continuations, then words; the same for the same texts.
    """
    spelled = [*SPECIAL_TOKENS, *_PUNCTUATION, *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    counted = Counter(word for text in texts for word in words_of(text.lower()) if word not in _LETTERS)
    frequent = sorted(counted, key=lambda word: (-counted[word], word))
    return [*spelled, *frequent[:words]]
