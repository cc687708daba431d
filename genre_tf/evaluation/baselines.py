"""Baselines that a model must beat: scores of every impression from simple rules, without training."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.text.words import words_of

Scores = list[npt.NDArray[np.float32]]


def simple_baselines(
    examples: Sequence[ImpressionExample], table: ArticleTable, seed: int = 0
) -> dict[str, Scores]:
    """Every baseline that needs no language model, by name.

    Args:
        examples: the impressions, with counters of what happened before them.
        table: the table of articles that the rows refer to.
        seed: seed of the random scores.
    """
    return {
        "random": random_scores(examples, seed),
        "popularity": popularity(examples),
        "click_through_rate": click_through_rate(examples),
        "category": category_counts(examples, table),
        "bm25": bm25(examples, table),
    }


def random_scores(examples: Sequence[ImpressionExample], seed: int = 0) -> Scores:
    """Uniform random scores, the same for the same seed: the lower bound for every metric.

    Args:
        examples: the impressions.
        seed: seed of the random numbers.

    Returns:
        Per impression float32 [candidates].
    """
    generator = np.random.default_rng(seed)
    return [generator.random(len(example.candidates), np.float32) for example in examples]


def popularity(examples: Sequence[ImpressionExample]) -> Scores:
    """Clicks of each candidate before the impression.

    Args:
        examples: the impressions, with counters of what happened before them.

    Returns:
        Per impression float32 [candidates].
    """
    return [example.counters[:, 0] for example in examples]


def click_through_rate(
    examples: Sequence[ImpressionExample],
    prior_rate: float = 0.04,  # on MIND, one in 25 shown articles is clicked
    prior_views: float = 10.0,  # so that a first click at the first view does not mean certainty
) -> Scores:
    """Clicks per view before the impression, smoothed towards a prior while views are few.

    Args:
        examples: the impressions, with counters of what happened before them.
        prior_rate: rate of an article that was never shown.
        prior_views: number of views that the prior counts as.

    Returns:
        Per impression float32 [candidates].
    """
    return [
        (example.counters[:, 0] + prior_rate * prior_views) / (example.counters[:, 1] + prior_views)
        for example in examples
    ]


def category_counts(examples: Sequence[ImpressionExample], table: ArticleTable) -> Scores:
    """Number of articles in the reader's history with the candidate's category.

    Args:
        examples: the impressions.
        table: the table of articles that the rows refer to.

    Returns:
        Per impression float32 [candidates].
    """
    category_ids = {name: number for number, name in enumerate(dict.fromkeys(table.categories))}
    of_article = np.array([category_ids[name] for name in table.categories])
    return [
        np.bincount(of_article[example.history], minlength=len(category_ids))[
            of_article[example.candidates]
        ].astype(np.float32)
        for example in examples
    ]


def bm25(examples: Sequence[ImpressionExample], table: ArticleTable) -> Scores:
    """BM25 of the candidate's title, with the titles of the reader's history as the query.

    Args:
        examples: the impressions.
        table: the table of articles that the rows refer to; word frequencies are counted over all its titles.

    Returns:
        Per impression float32 [candidates]; zeros for a reader without history.
    """
    score = _bm25_scorer(table.titles)
    return [score(example.history, example.candidates) for example in examples]


def mean_of_history(examples: Sequence[ImpressionExample], vectors: npt.NDArray[np.float32]) -> Scores:
    """Dot product of the candidate's vector with the mean vector of the reader's newest clicks.

    Args:
        examples: the impressions.
        vectors: float32 [articles, dimension], one per row of the table.

    Returns:
        Per impression float32 [candidates]; zeros for a reader without history.
    """
    scores = []
    for example in examples:
        reader = vectors[example.history].sum(axis=0) / max(1, len(example.history))
        scores.append(vectors[example.candidates] @ reader)
    return scores


def _bm25_scorer(
    titles: Sequence[str],
    saturation: float = 1.2,  # k1 and b: the values of Lucene and of most of the literature
    length_weight: float = 0.75,
) -> Callable[[npt.NDArray[np.int32], npt.NDArray[np.int32]], npt.NDArray[np.float32]]:
    """Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009."""
    terms, counts, vocabulary_size = _term_matrix(titles)
    lengths = counts.sum(axis=1, keepdims=True)
    documents = np.bincount(terms[counts > 0], minlength=vocabulary_size)
    titled = max(1, int((lengths > 0).sum()))
    rarity = np.log1p((titled - documents + 0.5) / (documents + 0.5)).astype(np.float32)
    mean_length = max(1.0, float(lengths.sum()) / titled)
    damping = saturation * (1 - length_weight + length_weight * lengths / mean_length)
    weights = rarity[terms] * counts * (saturation + 1) / (counts + damping)  # [articles, words]
    query = np.zeros(vocabulary_size, np.float32)

    def score(history: npt.NDArray[np.int32], candidates: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        np.add.at(query, terms[history], counts[history])
        scores = (query[terms[candidates]] * weights[candidates]).sum(axis=1)
        query[terms[history]] = 0  # cheaper than a new vocabulary-sized array per impression
        return np.asarray(scores, np.float32)

    return score


def _term_matrix(titles: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], int]:
    """The distinct words of each title and their counts, padded with word 0 and count 0."""
    vocabulary: dict[str, int] = {}
    rows = []
    for title in titles:
        words: dict[int, int] = {}
        for word in words_of(title.lower()):
            number = vocabulary.setdefault(word, len(vocabulary) + 1)
            words[number] = words.get(number, 0) + 1
        rows.append(words)
    widest = max(1, *(len(words) for words in rows)) if rows else 1
    terms = np.zeros((len(rows), widest), np.int32)
    counts = np.zeros((len(rows), widest), np.float32)
    for at, words in enumerate(rows):
        terms[at, : len(words)] = list(words)
        counts[at, : len(words)] = list(words.values())
    return terms, counts, len(vocabulary) + 1
