"""Metrics of text: perplexity, ROUGE against the real text, diversity, and how much is copied."""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from genre_tf.text.words import SPACELESS, words_of, written_tokens

_PUNCTUATION = str.maketrans("", "", string.punctuation + "，。！？；：、“”‘’「」『』《》（）…—·")
ROUGE = ("rouge1", "rouge2", "rougeL")

WORD_END_NOTE = (
    "per word: exp(nats of all texts with their ends / number of words, separated by spaces; each "
    "Chinese or Japanese character is one word). Unigram: "
    "p(w) = (count(w) + 1) / (N + V), N the number of training words and text ends, V the number of distinct "
    "training words plus the end and one unknown word, which stands for all other words"
)


@dataclass(frozen=True)
class TextLoss:
    """Total surprise of some texts: nats over all predicted tokens, and the number of these.

    The tokens include the end of each text; for masked models they are the masked tokens.
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
    """Unigram probabilities of words with case and punctuation; see `WORD_END_NOTE` for the smoothing."""

    def __init__(self, texts: Iterable[str]) -> None:
        counts: Counter[str] = Counter()
        self.ends = 0
        for text in texts:
            counts.update(written_tokens(text))
            self.ends += 1
        self.counts = counts
        # N + V: all words, the end, the unknown word
        self.total = counts.total() + self.ends + len(counts) + 2

    def nats(self, text: str) -> float:
        """Negative log probability of a text and its end."""
        probabilities = [self.counts[word] + 1 for word in written_tokens(text)] + [self.ends + 1]
        return sum(math.log(self.total / each) for each in probabilities)

    def per_word(self, texts: Iterable[str]) -> float:
        """Perplexity per word of texts."""
        texts = list(texts)
        return perplexity(sum(map(self.nats, texts)), word_count(texts))


class _RougeWords:
    """The tokenizer for `rouge-score`: its own words, plus those of scripts that it ignores."""

    # Accented Latin letters separate words, as they do there.
    _WORD = re.compile(rf"[a-z0-9]+|[{SPACELESS}]|[^\W_\u0000-\u024f{SPACELESS}]+")

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._latin = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Words of a text, in lower case; Latin ones are stemmed."""
        found = self._WORD.findall(text.lower())
        return [part for word in found for part in (self._latin.tokenize(word) if word.isascii() else [word])]


def rouge(written: Sequence[str], real: Sequence[str]) -> dict[str, float | None]:
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L F1 with stemming, by Google's `rouge-score`; None without samples.

    Texts in Latin letters are split like `rouge-score` does (a-z and digits, stemmed), so results compare
    with published ones. Other scripts, which it ignores, have words here too; in Chinese and Japanese each
    character.
    """
    if len(written) != len(real):
        raise ValueError(f"{len(written)} written texts but {len(real)} real ones; give one for each")
    if not written:
        return dict.fromkeys(ROUGE)
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(ROUGE), tokenizer=_RougeWords())
    found = [scorer.score(target, prediction) for prediction, target in zip(written, real, strict=True)]
    return {name: sum(sample[name].fmeasure for sample in found) / len(found) for name in ROUGE}


def distinct(texts: Sequence[str], size: int) -> float | None:
    """The share of distinct word n-grams among all of them (distinct-n); None if there is none.

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016. It falls with
    the amount of text, so compare only sets of equal size.
    """
    grams = [
        tuple(words[at : at + size])
        for words in (written_tokens(text.lower()) for text in texts)
        for at in range(len(words) - size + 1)
    ]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """How similar several texts from one source are: the mean BLEU-4 of each against all the others, 0 to 1.

    Zhu et al., "Texygen", 2018; precisions of zero are smoothed by epsilon (0.1), which is smoothing 1 of
    Chen and Cherry, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU", 2014. Words
    are in lower case and split at spaces; Chinese and Japanese characters count one by one. Texts of fewer
    than four words have low values even if they are equal. None for fewer than two texts.
    """
    if len(texts) < 2:
        return None
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    words = [written_tokens(text.lower()) for text in texts]
    smoothing = SmoothingFunction(epsilon=0.1).method1
    found = [
        sentence_bleu([*words[:at], *words[at + 1 :]], words[at], smoothing_function=smoothing)
        for at in range(len(words))
    ]
    return float(sum(found) / len(found))


def copy_rate(texts: Sequence[str], sources: Sequence[str], run: int = 4) -> float | None:
    """Share of all words that are in a run of at least `run` words copied from the source; None if no words.

    See et al., "Get To The Point", 2017, and Grusky et al., "Newsroom", 2018, look at such runs. Words are
    letters and digits in lower case, or single Chinese and Japanese characters; punctuation between them is
    ignored.
    """
    copied = total = 0
    for text, source in zip(texts, sources, strict=True):
        words, known = words_of(text.lower()), words_of(source.lower())
        runs = {tuple(known[at : at + run]) for at in range(len(known) - run + 1)}
        starts = [at for at in range(len(words) - run + 1) if tuple(words[at : at + run]) in runs]
        copied += len({place for at in starts for place in range(at, at + run)})
        total += len(words)
    return copied / total if total else None


_NOT = r"(?:(not|no|never|without|cannot|hardly|\w+n['’]t)\s+(?:\w+\s+)?)?"
_NOT_JOINED = "(没有|沒有|[不没沒无無未])?"


def sentiment(texts: Sequence[str]) -> float | None:
    """The mean mood of texts, from -1 (bad news) to 1 (good news), by words in English and Chinese.

    A text's mood is the difference of its good and bad words over their sum, 0 without any; a negation before
    a word turns it round. Compare means of many texts: a word does not know what it is said about.
    """
    if not texts:
        return None
    moods, pattern = _moods()
    total = 0.0
    for text in texts:
        found = [
            moods[word] * (-1 if negation else 1)
            for match in pattern.finditer(text.lower())
            for negation, word in [match.group(1, 2) if match[2] else match.group(3, 4)]
        ]
        total += sum(found) / max(len(found), 1)
    return total / len(texts)


@cache
def _moods() -> tuple[dict[str, int], re.Pattern[str]]:
    """The mood of each listed word, and a pattern that finds them, each with its negation before it."""
    moods: dict[str, int] = {}
    sign = 0
    for line in Path(__file__).with_name("sentiment_words.txt").read_text("utf-8").splitlines():
        if line in ("good", "bad"):
            sign = 1 if line == "good" else -1
        elif not line.startswith("#"):
            moods |= dict.fromkeys(line.split(), sign)
    joined = re.compile(f"[{SPACELESS}]")
    spaced = "|".join(re.escape(word) for word in moods if not joined.match(word))
    # Longer words first: a regular expression takes the first one that fits.
    other = "|".join(sorted(filter(joined.match, moods), key=len, reverse=True))
    return moods, re.compile(rf"\b{_NOT}\b({spaced})\b|{_NOT_JOINED}({other})")


def answer_match(answer: str, accepted: Iterable[str]) -> tuple[float, float]:
    """Exact match and token F1 of an answer, 0 to 1, each with the accepted answer that it fits best.

    Lower case, without punctuation and the articles a, an and the; Chinese and Japanese characters are words.
    Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016.

    Example:
        >>> answer_match("The picnic basket.", ["picnic basket", "basket"])
        (1.0, 1.0)
    """
    given = _answer_words(answer)
    exact = best = 0.0
    for words in map(_answer_words, accepted):
        common = (Counter(given) & Counter(words)).total()
        exact = max(exact, float(given == words))
        best = max(best, 2 * common / max(len(given) + len(words), 1), float(given == words))
    return exact, best


def _answer_words(text: str) -> list[str]:
    text = text.lower().translate(_PUNCTUATION)
    return written_tokens(re.sub(r"\b(?:a|an|the)\b", " ", text))
