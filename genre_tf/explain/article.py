"""Explains a recommendation: the clicks and the words of the article behind the click model's probability."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import Article
from genre_tf.errors import InputError
from genre_tf.evaluation.scoring import open_run
from genre_tf.models.article_features import article_texts
from genre_tf.models.checkpoint import load_ranker
from genre_tf.models.ranker import Ranker

FIRST_POINTS, MOST_POINTS = 16, 256
"""Points of the path of `word_attributions`: doubled until at most a hundredth of the sum is missing."""

_ENOUGH, _NEARLY_NOTHING = 0.01, 1e-4
_AT_ONCE = 32


@dataclass(frozen=True)
class ClickReason:
    """One click of the reader and its effect on the candidate."""

    news_id: str  # empty if the click was given by its title
    title: str
    weight: float  # the ranker's attention; the weights sum to 1 over the clicks
    without: float  # the click probability if the reader had never clicked it
    change: float  # the part of the probability that is due to this click


@dataclass(frozen=True)
class WordScore:
    """A word as the model reads it, and its contribution to the logit."""

    word: str
    score: float


@dataclass(frozen=True)
class WordAttributions:
    """Contributions of a candidate's words to its click logit."""

    words: tuple[WordScore, ...]  # in the order of the text
    logit: float
    without_words: float  # the logit if every piece of every word is masked
    missing: float  # `logit - without_words` minus the sum of the scores: the error of the integration


@dataclass(frozen=True)
class Explanation:
    """Why a candidate has its click probability."""

    news_id: str  # empty if the candidate was given by its title
    title: str
    probability: float  # that the reader clicks it, without live counters
    probability_without_history: float
    clicks: tuple[ClickReason, ...]  # oldest first
    words: WordAttributions


def titled(title: str, news_id: str = "") -> Article:
    """An article with nothing but a title."""
    return Article(news_id, "", "", title, "")


class Explainer:
    """Explains the scores of a run's ranker."""

    def __init__(self, run: Path) -> None:
        self.config = open_run(run)
        self.ranker = load_ranker(run)

    def __call__(self, history: Sequence[Article], candidate: Article) -> Explanation:
        """Explain one candidate for one reader."""
        text = article_texts([candidate.title], [candidate.abstract], self.ranker.news.use_abstract)[0]
        if not text.strip():
            raise InputError("the candidate has no title; give the article or a title to explain")
        clicks = list(history)[-self.ranker.max_history :]
        vectors = tf.constant(self.ranker.news.encode([*clicks, candidate]))
        of_clicks, shown, count = vectors[:-1], vectors[-1:], len(clicks)
        # With all clicks, without each of them, and without any.
        kept = np.concatenate(
            [np.ones((1, count), bool), ~np.eye(count, dtype=bool), np.zeros((1, count), bool)]
        )
        logits = _click_logits(self.ranker, of_clicks, tf.constant(kept), tf.repeat(shown, len(kept), 0))
        with_all, *without, with_none = tf.sigmoid(logits).numpy().tolist()
        weights = []
        if clicks:
            real = tf.ones([1, count], tf.bool)
            weights = self.ranker.attention(of_clicks[None], real, shown[None])[0].numpy()[0, 0].tolist()
        categories = self.ranker.news.categories
        return Explanation(
            news_id=candidate.news_id,
            title=candidate.title,
            probability=with_all,
            probability_without_history=with_none,
            clicks=tuple(
                ClickReason(click.news_id, click.title, weight, less, with_all - less)
                for click, weight, less in zip(clicks, weights, without, strict=True)
            ),
            words=word_attributions(
                self.ranker,
                text,
                int(categories.rows([candidate.category])[0]),
                int(categories.rows([candidate.subcategory])[0]),
                of_clicks,
            ),
        )


def _click_logits(ranker: Ranker, clicks: tf.Tensor, kept: tf.Tensor, shown: tf.Tensor) -> tf.Tensor:
    """Logits of R candidates, each for a reader with some of the clicks.

    Args:
        clicks: float32 [H, D]; H may be 0.
        kept: bool [R, H], which of the clicks the reader of each candidate has.
        shown: float32 [R, D], the candidates.
    """
    room = [0, max(0, 1 - int(clicks.shape[0]))]  # the model needs room for at least one click
    clicks, kept = tf.pad(clicks, [room, [0, 0]]), tf.pad(kept, [[0, 0], room])
    rows = int(shown.shape[0])
    of_each = tf.repeat(clicks[None], rows, 0)  # [R, H or 1, D]
    return ranker.click_logits(of_each, kept, shown[:, None], tf.ones([rows, 1], tf.bool))[:, 0]


def word_attributions(
    ranker: Ranker, text: str, category: int, subcategory: int, history: tf.Tensor
) -> WordAttributions:
    """Attribute a candidate's click logit to its words, by integrated gradients over its token embeddings.

    The straight path leads from a text with as many masked pieces to the text itself. Scores are integrals of
    the gradient along it, so that together they equal the difference of the two logits (completeness).
    `category` and `subcategory` are rows in the news encoder's categories; history: float32 [H, D].

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017; summed by Gauss-Legendre
    quadrature, which needs fewer points than an even sum.
    """
    tokenizer = ranker.news.bert.tokenizer
    ids = tokenizer(tf.constant([text]), ranker.news.max_tokens)  # [1, T]
    vocabulary = tokenizer.vocabulary
    table = tf.convert_to_tensor(ranker.news.bert.backbone.get_layer("token_embedding").embeddings)
    given = tf.gather(table, ids[0])  # [T, hidden]
    nothing = table[vocabulary.index("[MASK]")] if "[MASK]" in vocabulary else tf.zeros_like(given[0])
    frame = (ids[0] == tokenizer.start_id) | (ids[0] == tokenizer.end_id)
    masked = tf.where(frame[:, None], given, nothing)

    def logits(embeddings: tf.Tensor) -> tf.Tensor:
        """[S, T, hidden] -> [S]."""
        rows = int(embeddings.shape[0])
        mask = tf.ones(embeddings.shape[:2], tf.bool)
        lower = ranker.news.frozen.lower
        states = embeddings if lower is None else lower(embeddings, mask=mask, training=False)
        known = {"category": tf.fill([rows], category), "subcategory": tf.fill([rows], subcategory)}
        vectors = ranker.news({"states": states, "mask": mask, **known}, training=False)
        return _click_logits(ranker, history, tf.ones([rows, history.shape[0]], tf.bool), vectors)

    logit, without_words = logits(tf.stack([given, masked])).numpy().tolist()
    points = FIRST_POINTS
    while True:
        scores = _integrated(logits, given, masked, points)
        missing = float(logit - without_words - scores.sum())
        if (
            abs(missing) <= max(_NEARLY_NOTHING, _ENOUGH * abs(logit - without_words))
            or points >= MOST_POINTS
        ):
            break
        points *= 2
    words: list[WordScore] = []
    for token, score in zip(ids[0].numpy()[1:-1], scores[1:-1].tolist(), strict=True):
        piece = vocabulary[token]
        if piece.startswith("##") and words:  # it continues a word, whose score is the sum of its pieces'
            begun = words.pop()
            words.append(WordScore(begun.word + piece[2:], begun.score + score))
        else:
            words.append(WordScore(piece, score))
    return WordAttributions(tuple(words), logit, without_words, missing)


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
