"""Baselines that a model must beat: scores of every impression from simple rules, without training.

Each takes the impressions, with counters of what happened before them, and returns float32 [candidates] per
impression; `table` holds the articles that their rows refer to.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.bert import Bert
from genre_tf.backbones.layers import split_layers
from genre_tf.backbones.trainable import Trainable
from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.models.article_features import by_length
from genre_tf.text.words import words_of

Scores = list[npt.NDArray[np.float32]]


def simple_baselines(
    examples: Sequence[ImpressionExample], table: ArticleTable, seed: int = 0
) -> dict[str, Scores]:
    """Every baseline that needs no language model, by name; "random" draws the same for the same seed."""
    generator = np.random.default_rng(seed)
    return {
        "random": [generator.random(len(example.candidates), np.float32) for example in examples],
        "popularity": [example.counters[:, 0] for example in examples],
        "click_through_rate": click_through_rate(examples),
        "category": category_counts(examples, table),
        "bm25": bm25(examples, table),
    }


def click_through_rate(
    examples: Sequence[ImpressionExample],
    prior_rate: float = 0.04,  # on MIND, one in 25 shown articles is clicked
    prior_views: float = 10.0,  # so that a first click at the first view does not mean certainty
) -> Scores:
    """Clicks per view before the impression, smoothed towards a prior while views are few."""
    return [
        (example.counters[:, 0] + prior_rate * prior_views) / (example.counters[:, 1] + prior_views)
        for example in examples
    ]


def category_counts(examples: Sequence[ImpressionExample], table: ArticleTable) -> Scores:
    """Number of articles in the reader's history with the candidate's category."""
    names, of_article = np.unique(np.array(table.categories), return_inverse=True)
    counts = (np.bincount(of_article[example.history], minlength=len(names)) for example in examples)
    return [
        of_reader[of_article[example.candidates]].astype(np.float32)
        for of_reader, example in zip(counts, examples, strict=True)
    ]


def bm25(
    examples: Sequence[ImpressionExample],
    table: ArticleTable,
    saturation: float = 1.2,  # k1 and b: the values of Lucene and of most of the literature
    length_weight: float = 0.75,
) -> Scores:
    """BM25 of the candidate's title, with the titles of the reader's history as the query.

    Word frequencies are counted over all titles of the table. Zeros for a reader without history.
    Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
    """
    vocabulary: dict[str, int] = {}
    of_titles = []
    for title in table.titles:
        numbers = (vocabulary.setdefault(word, len(vocabulary) + 1) for word in words_of(title.lower()))
        of_titles.append(Counter(numbers))
    widest = max([1, *map(len, of_titles)])
    terms = np.zeros((len(of_titles), widest), np.int32)  # the distinct words of each title, padded with 0
    counts = np.zeros((len(of_titles), widest), np.float32)
    for at, words in enumerate(of_titles):
        terms[at, : len(words)] = list(words)
        counts[at, : len(words)] = list(words.values())
    lengths = counts.sum(axis=1, keepdims=True)
    documents = np.bincount(terms[counts > 0], minlength=len(vocabulary) + 1)
    titled = max(1, int((lengths > 0).sum()))
    rarity = np.log1p((titled - documents + 0.5) / (documents + 0.5)).astype(np.float32)
    mean_length = max(1.0, float(lengths.sum()) / titled)
    damping = saturation * (1 - length_weight + length_weight * lengths / mean_length)
    weights = rarity[terms] * counts * (saturation + 1) / (counts + damping)  # [articles, words]
    query = np.zeros(len(vocabulary) + 1, np.float32)
    scores = []
    for example in examples:
        history, candidates = example.history, example.candidates
        np.add.at(query, terms[history], counts[history])
        scores.append((query[terms[candidates]] * weights[candidates]).sum(axis=1).astype(np.float32))
        query[terms[history]] = 0  # cheaper than a new vocabulary-sized array per impression
    return scores


def mean_of_history(examples: Sequence[ImpressionExample], vectors: npt.NDArray[np.float32]) -> Scores:
    """Dot product of the candidate's vector with the mean vector of the reader's clicks, zeros without any.

    Args:
        vectors: float32 [articles, dimension], one per row of the table.
    """
    scores = []
    for example in examples:
        reader = vectors[example.history].sum(axis=0) / max(1, len(example.history))
        scores.append(vectors[example.candidates] @ reader)
    return scores


def title_vectors(bert: Bert, titles: Sequence[str], max_tokens: int = 32) -> npt.NDArray[np.float32]:
    """Mean of a title's token states ([CLS] and [SEP] included), normalised to length one.

    This is how sentence-transformers pool MiniLM: Reimers and Gurevych, "Sentence-BERT", 2019.

    Returns:
        float32 [N, hidden]; zeros for an empty title.
    """
    encoder: Any = split_layers(bert.backbone, Trainable(last=0), bert.tokenizer.pad_id)[0]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def encode(batch: tf.Tensor) -> tf.Tensor:
        token_ids = bert.tokenizer(batch, max_tokens)  # [batch, tokens]
        real = tf.not_equal(token_ids, bert.tokenizer.pad_id)
        states = encoder(token_ids)  # [batch, tokens, hidden]
        weights = tf.cast(real, states.dtype)[:, :, tf.newaxis]
        # The length of the sum does not matter, because it is normalised.
        return tf.math.l2_normalize(tf.reduce_sum(states * weights, axis=1), axis=1)  # [batch, hidden]

    (vectors,) = by_length(lambda batch: [encode(batch)], [titles])
    vectors[[not title for title in titles]] = 0
    return vectors
