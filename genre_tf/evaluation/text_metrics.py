"""Metrics of written text: perplexity, ROUGE against the real text, and how varied the texts are."""

import math
from collections.abc import Sequence

ROUGE = ("rouge1", "rouge2", "rougeL")


def perplexity(negative_log_likelihood: float, tokens: int) -> float | None:
    """Perplexity of a corpus from its summed negative log-likelihood.

    Args:
        negative_log_likelihood: the sum over all tokens, in nats.
        tokens: how many tokens were predicted.

    Returns:
        exp(mean); None without tokens; infinity where the mean is beyond a float.
    """
    if tokens <= 0:
        return None
    try:
        return math.exp(negative_log_likelihood / tokens)
    except OverflowError:
        return math.inf


def rouge(written: Sequence[str], real: Sequence[str]) -> dict[str, float | None]:
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L F1 with stemming, by Google's `rouge-score`.

    `rouge-score` keeps the letters a-z and digits alone, so it measures English and little else.

    Args:
        written: what the model wrote, one per sample.
        real: the real text of the same samples.

    Returns:
        "rouge1", "rouge2", "rougeL" as fractions; None without samples.

    Raises:
        ValueError: when there are not as many written as real texts.
    """
    if len(written) != len(real):
        raise ValueError(f"{len(written)} written texts, {len(real)} real ones: they must be pairs.")
    if not written:
        return dict.fromkeys(ROUGE)
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=True)
    found = [scorer.score(target, prediction) for prediction, target in zip(written, real, strict=True)]
    return {name: sum(sample[name].fmeasure for sample in found) / len(found) for name in ROUGE}


def distinct(texts: Sequence[str], size: int) -> float | None:
    """The share of different word n-grams among all of them (distinct-n).

    Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016. It falls
    with the amount of text, so only sets of one size may be compared.

    Args:
        texts: the written texts.
        size: n, the words of one n-gram.

    Returns:
        A fraction, or None where no text has an n-gram.
    """
    grams = [
        tuple(words[at : at + size])
        for words in (text.lower().split() for text in texts)
        for at in range(len(words) - size + 1)
    ]
    return len(set(grams)) / len(grams) if grams else None
