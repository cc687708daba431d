"""The words behind a candidate's click logit: integrated gradients over its token embeddings."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.models.news_encoder import NewsEncoder
from genre_tf.models.ranker import Ranker

FIRST_POINTS, MOST_POINTS = 16, 256
"""Points of the path: doubled until at most a hundredth of the sum is missing, up to the last number."""

_ENOUGH, _NEARLY_NOTHING = 0.01, 1e-4
_AT_ONCE = 32


class WordScore(NamedTuple):
    """A word as the model reads it, and its contribution to the logit."""

    word: str
    score: float


class WordAttributions(NamedTuple):
    """Contributions of a candidate's words to its click logit.

    Args:
        words: words and scores, in the order of the text.
        logit: logit of the candidate.
        without_words: the logit if every piece of every word is masked.
        missing: `logit - without_words` minus the sum of the scores: the error of the numerical integration.
    """

    words: tuple[WordScore, ...]
    logit: float
    without_words: float
    missing: float


def word_attributions(
    ranker: Ranker, text: str, category: int, subcategory: int, history: tf.Tensor
) -> WordAttributions:
    """Attribute a candidate's click logit to its words.

    The straight path leads from a text with as many masked pieces to the text itself. Scores are integrals of
    the gradient along it, so that together they equal the difference of the two logits (completeness).

    Args:
        ranker: the click model, used without counters.
        text: text of the candidate.
        category: its row in the news encoder's categories, 0 if unknown.
        subcategory: the same for the subcategory.
        history: float32 [H, D], vectors of the reader's clicks, oldest first; H may be 0.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017; summed by Gauss-Legendre
    quadrature, which needs fewer points than an even sum.
    """
    news = ranker.news
    tokenizer = news.bert.tokenizer
    ids = tokenizer(tf.constant([text]), news.max_tokens)  # [1, T]
    embeddings = news.bert.backbone.get_layer("token_embedding").embeddings
    given = tf.gather(tf.convert_to_tensor(embeddings), ids)[0]  # [T, hidden]
    masked = _masked(news, ids[0], given)
    logits = _logits_of_embeddings(ranker, category, subcategory, history)
    ends = logits(tf.stack([given, masked])).numpy()
    points = FIRST_POINTS
    while True:
        scores = _integrated(logits, given, masked, points)
        missing = float(ends[0] - ends[1] - scores.sum())
        if abs(missing) <= max(_NEARLY_NOTHING, _ENOUGH * abs(ends[0] - ends[1])) or points >= MOST_POINTS:
            break
        points *= 2
    pieces = [tokenizer.vocabulary[token] for token in ids[0].numpy()]
    words = _joined_pieces(pieces[1:-1], scores[1:-1])
    return WordAttributions(words, float(ends[0]), float(ends[1]), missing)


def _masked(news: NewsEncoder, ids: tf.Tensor, given: tf.Tensor) -> tf.Tensor:
    """The embeddings of a text without content: [MASK] for each piece; zeros without such a token."""
    tokenizer = news.bert.tokenizer
    vocabulary = tokenizer.vocabulary
    nothing = tf.zeros_like(given[0])
    if "[MASK]" in vocabulary:
        table = tf.convert_to_tensor(news.bert.backbone.get_layer("token_embedding").embeddings)
        nothing = table[vocabulary.index("[MASK]")]
    frame = (ids == tokenizer.start_id) | (ids == tokenizer.end_id)
    return tf.where(frame[:, None], given, nothing)


def _logits_of_embeddings(
    ranker: Ranker, category: int, subcategory: int, history: tf.Tensor
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Click logits as a function of the candidate's token embeddings: [S, T, hidden] -> [S]."""
    lower = ranker.news.frozen.lower
    width = max(1, int(history.shape[0]))
    clicks = tf.pad(history, [[0, width - int(history.shape[0])], [0, 0]])[None]  # [1, H or 1, D]
    real = tf.fill([1, width], bool(history.shape[0]))

    def logits(embeddings: tf.Tensor) -> tf.Tensor:
        rows = int(embeddings.shape[0])
        mask = tf.ones(embeddings.shape[:2], tf.bool)
        states = embeddings if lower is None else lower(embeddings, real=mask, training=False)
        known = {"category": tf.fill([rows], category), "subcategory": tf.fill([rows], subcategory)}
        vectors = ranker.news({"states": states, "mask": mask, **known}, training=False)
        shown = ranker.click_logits(
            tf.repeat(clicks, rows, 0),
            tf.repeat(real, rows, 0),
            vectors[:, None],
            tf.ones([rows, 1], tf.bool),
        )
        return shown[:, 0]

    return logits


def _integrated(
    logits: Callable[[tf.Tensor], tf.Tensor], given: tf.Tensor, masked: tf.Tensor, points: int
) -> npt.NDArray[np.float64]:
    """The contribution of each piece along the path: float64 [T]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    total = np.zeros(given.shape, np.float64)
    for start in range(0, points, _AT_ONCE):
        where = tf.constant((nodes[start : start + _AT_ONCE] + 1) / 2, tf.float32)[:, None, None]
        between = masked + where * (given - masked)  # [points, T, hidden]
        with tf.GradientTape() as tape:
            tape.watch(between)
            total_logit = tf.reduce_sum(logits(between))
        gradients = tape.gradient(total_logit, between).numpy().astype(np.float64)
        total += np.einsum("s,sth->th", weights[start : start + _AT_ONCE] / 2, gradients)
    return (total * (given - masked).numpy()).sum(axis=1)


def _joined_pieces(pieces: Sequence[str], scores: npt.NDArray[np.float64]) -> tuple[WordScore, ...]:
    """Pieces that continue a word (`##ing`) belong to it; its score is their sum."""
    words: list[WordScore] = []
    for piece, score in zip(pieces, scores.tolist(), strict=True):
        if piece.startswith("##") and words:
            begun = words.pop()
            words.append(WordScore(begun.word + piece[2:], begun.score + score))
        else:
            words.append(WordScore(piece, score))
    return tuple(words)
