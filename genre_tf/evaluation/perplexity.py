"""Perplexity of texts per token and per word, with that of a simple unigram model of words."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from genre_tf.text.words import written_tokens

WORD_END_NOTE = (
    "per word: exp(nats of all texts with their ends / number of words, separated by spaces; each "
    "Chinese or Japanese character is one word). Unigram: "
    "p(w) = (count(w) + 1) / (N + V), N the number of training words and text ends, V the number of distinct "
    "training words plus the end and one unknown word, which stands for all other words"
)


@dataclass(frozen=True)
class TextLoss:
    """Total surprise of some texts.

    Attributes:
        nats: summed over all predicted tokens.
        tokens: number of predicted tokens, with the end of each text; for masked models the masked tokens.
    """

    nats: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Perplexity per predicted token."""
        return perplexity(self.nats, self.tokens)


def perplexity(nats: float, count: int) -> float:
    """exp(nats / count); infinity is replaced by a finite number, to keep reports valid JSON."""
    return math.exp(min(nats / max(count, 1), 700.0))


def word_count(texts: Iterable[str]) -> int:
    """Number of words in all texts; in scripts without spaces, of characters."""
    return sum(len(written_tokens(text)) for text in texts)


class UnigramModel:
    """Unigram word probabilities with add-one smoothing; see `WORD_END_NOTE`.

    Args:
        texts: texts whose words are counted unchanged, with case and punctuation.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        counts: Counter[str] = Counter()
        self.ends = 0
        for text in texts:
            counts.update(written_tokens(text))
            self.ends += 1
        self.counts = counts
        self.total = (
            counts.total() + self.ends + len(counts) + 2
        )  # N + V: all words, the end, the unknown word

    def nats(self, text: str) -> float:
        """Negative log probability of a text and its end."""
        probabilities = [self.counts[word] + 1 for word in written_tokens(text)] + [self.ends + 1]
        return sum(math.log(self.total / each) for each in probabilities)

    def per_word(self, texts: Iterable[str]) -> float:
        """Perplexity per word of texts."""
        texts = list(texts)
        return perplexity(sum(map(self.nats, texts)), word_count(texts))
