"""Metrics of written text: perplexity, ROUGE against the real text, diversity, and how much is copied."""

import math
import re
from collections.abc import Sequence

from genre_tf.text.words import SPACELESS, words_of, written_tokens

ROUGE = ("rouge1", "rouge2", "rougeL")


def perplexity(negative_log_likelihood: float, tokens: int) -> float | None:
    """Perplexity of a corpus from its summed negative log-likelihood.

    Args:
        negative_log_likelihood: the sum over all tokens, in nats.
        tokens: number of predicted tokens.

    Returns:
        exp(mean); None without tokens; infinity if the mean is too large for a float.
    """
    if tokens <= 0:
        return None
    try:
        return math.exp(negative_log_likelihood / tokens)
    except OverflowError:
        return math.inf


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
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L F1 with stemming, by Google's `rouge-score`.

    Texts in Latin letters are split like `rouge-score` does (a-z and digits, stemmed), so results compare
    with published ones. Other scripts, which it ignores, have words here too; in Chinese and Japanese each
    character.

    Args:
        written: what the model wrote, one per sample.
        real: the real text of the same samples.

    Returns:
        "rouge1", "rouge2", "rougeL" as fractions; None without samples.

    Raises:
        ValueError: the numbers of written and real texts differ.
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
    """The share of distinct word n-grams among all of them (distinct-n).

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016. It falls with
    the amount of text, so compare only sets of equal size.

    Args:
        texts: the written texts.
        size: n, the number of words in an n-gram; Chinese and Japanese characters are words.

    Returns:
        A fraction, or None if no text has an n-gram.
    """
    grams = [
        tuple(words[at : at + size])
        for words in (written_tokens(text.lower()) for text in texts)
        for at in range(len(words) - size + 1)
    ]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """How similar several texts from one source are: the mean BLEU-4 of each against all the others.

    Zhu et al., "Texygen", 2018; precisions of zero are smoothed by epsilon (0.1), which is smoothing 1 of
    Chen and Cherry, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU", 2014. Words
    are in lower case and split at spaces; Chinese and Japanese characters count one by one. Texts of fewer
    than four words have low values even if they are equal.

    Args:
        texts: texts written from one source.

    Returns:
        From 0 to 1, 1 for equal texts; None for fewer than two.
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
    """Share of all words that are in a run of at least `run` words copied from the source.

    See et al., "Get To The Point", 2017, and Grusky et al., "Newsroom", 2018, look at such runs. Words are
    letters and digits in lower case, or single Chinese and Japanese characters; punctuation between them is
    ignored.

    Args:
        texts: the written texts.
        sources: the source of each text.
        run: number of words in the shortest run that counts.

    Returns:
        A fraction, or None if there are no words.

    Raises:
        ValueError: the numbers of texts and sources differ.
    """
    copied = total = 0
    for text, source in zip(texts, sources, strict=True):
        words, known = words_of(text.lower()), words_of(source.lower())
        runs = {tuple(known[at : at + run]) for at in range(len(known) - run + 1)}
        starts = [at for at in range(len(words) - run + 1) if tuple(words[at : at + run]) in runs]
        copied += len({place for at in starts for place in range(at, at + run)})
        total += len(words)
    return copied / total if total else None
