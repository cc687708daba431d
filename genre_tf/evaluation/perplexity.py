"""Perplexity of texts, per token and per word, and that of the simplest model of words beside it."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from genre_tf.text.words import written_tokens

WORD_END_NOTE = (
    "per word: exp(nats of all texts, their ends included / their words, which stand between spaces; each "
    "Chinese or Japanese character is one). Unigram: "
    "p(w) = (count(w) + 1) / (N + V), N the training words and ends of texts, V the distinct training words, "
    "the end and one unknown word, which stands for every word that is not among them"
)


@dataclass(frozen=True)
class TextLoss:
    """How surprising texts were.

    Attributes:
        nats: of all predicted tokens together.
        tokens: predicted, the end of each text among them; for masked models the masked ones.
    """

    nats: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Perplexity per predicted token."""
        return perplexity(self.nats, self.tokens)


def perplexity(nats: float, count: int) -> float:
    """exp(nats / count); infinity stays finite, so that a report of it is valid JSON."""
    return math.exp(min(nats / max(count, 1), 700.0))


def word_count(texts: Iterable[str]) -> int:
    """Words between spaces, or characters where no spaces are written, in all texts together."""
    return sum(len(written_tokens(text)) for text in texts)


class UnigramModel:
    """Probabilities of words by themselves, with add-one smoothing; see `WORD_END_NOTE`.

    Args:
        texts: whose words are counted, as they are written: case and punctuation stay.
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
        """Minus the log probability of a text and its end."""
        probabilities = [self.counts[word] + 1 for word in written_tokens(text)] + [self.ends + 1]
        return sum(math.log(self.total / each) for each in probabilities)

    def per_word(self, texts: Iterable[str]) -> float:
        """Perplexity per word of texts."""
        texts = list(texts)
        return perplexity(sum(map(self.nats, texts)), word_count(texts))
