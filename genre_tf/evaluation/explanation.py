"""Explains a recommendation: what the click model attends to, and what it would say without each click."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import Article
from genre_tf.errors import InputError
from genre_tf.evaluation.run_models import open_run
from genre_tf.evaluation.word_attributions import WordAttributions, word_attributions
from genre_tf.models.article_features import article_texts
from genre_tf.models.checkpoint import load_ranker


@dataclass(frozen=True)
class ClickReason:
    """One click of the reader and its effect on the candidate.

    Args:
        news_id: empty if the click was given by its title.
        title: title of the article.
        weight: the ranker's attention; the weights sum to 1 over the clicks.
        without: the click probability if the reader had never clicked it.
        change: the part of the probability that is due to this click; negative if it lowers the probability.
    """

    news_id: str
    title: str
    weight: float
    without: float
    change: float


@dataclass(frozen=True)
class Explanation:
    """Why a candidate has its click probability.

    Args:
        news_id: id of the candidate; empty if it was given by its title.
        title: title of the candidate.
        probability: probability that the reader clicks it, without live counters.
        probability_without_history: the same for a reader without history.
        clicks: the reader's clicks, oldest first.
        words: the contribution of the candidate's words to the logit.
    """

    news_id: str
    title: str
    probability: float
    probability_without_history: float
    clicks: tuple[ClickReason, ...]
    words: WordAttributions

    def as_values(self) -> dict[str, Any]:
        """Plain values for JSON."""
        words = {**self.words._asdict(), "words": [word._asdict() for word in self.words.words]}
        return {**asdict(self), "words": words}


def titled(title: str) -> Article:
    """An article with nothing but a title."""
    return Article("", "", "", title, "")


class Explainer:
    """Explains the scores of a run's ranker.

    Args:
        run: the run folder.

    Raises:
        InputError: no run, or its ranker is not trained.
    """

    def __init__(self, run: Path) -> None:
        self.config = open_run(run)
        self.ranker = load_ranker(run)
        self._news = self.ranker.news

    def __call__(self, history: Sequence[Article], candidate: Article) -> Explanation:
        """Explain one candidate for one reader.

        Args:
            history: the reader's clicks, oldest first; the model reads only the newest.
            candidate: the article.

        Raises:
            InputError: the candidate has no text.
        """
        if not self._text(candidate).strip():
            raise InputError("the candidate has no title; give the article or a title to explain")
        clicks = list(history)[-self.ranker.max_history :]
        vectors = self._news.encode([*clicks, candidate])
        weights = self._weights(vectors)
        with_all, *without = self._probabilities(vectors).tolist()
        reasons = zip(clicks, weights.tolist(), without, strict=False)
        categories = self._news.categories
        return Explanation(
            news_id=candidate.news_id,
            title=candidate.title,
            probability=with_all,
            probability_without_history=without[-1],
            clicks=tuple(
                ClickReason(click.news_id, click.title, weight, less, with_all - less)
                for click, weight, less in reasons
            ),
            words=word_attributions(
                self.ranker,
                self._text(candidate),
                int(categories.rows([candidate.category])[0]),
                int(categories.rows([candidate.subcategory])[0]),
                tf.constant(vectors[:-1]),
            ),
        )

    def _text(self, article: Article) -> str:
        return article_texts([article.title], [article.abstract], self._news.use_abstract)[0]

    def _weights(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Attention of the candidate (the last vector) to the clicks: float32 [H]."""
        clicks, candidate = tf.constant(vectors[None, :-1]), tf.constant(vectors[None, -1:])
        if not len(vectors) - 1:
            return np.zeros(0, np.float32)
        weights, _ = self.ranker.attention(clicks, tf.ones(clicks.shape[:2], tf.bool), candidate)
        found: npt.NDArray[np.float32] = weights.numpy()[0, 0]
        return found

    def _probabilities(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Click probability with all clicks, without each click, and without any: float32 [1 + H + 1]."""
        count = len(vectors) - 1
        kept = np.concatenate(
            [np.ones((1, count), bool), ~np.eye(count, dtype=bool), np.zeros((1, count), bool)]
        )
        if not count:  # the models need room for at least one click
            vectors, kept = np.concatenate([np.zeros_like(vectors), vectors]), np.zeros((2, 1), bool)
        rows = len(kept)
        clicks = np.repeat(vectors[None, :-1], rows, 0)
        shown = np.repeat(vectors[None, -1:], rows, 0)
        logits = self.ranker.click_logits(
            tf.constant(clicks), tf.constant(kept), tf.constant(shown), tf.ones([rows, 1], tf.bool)
        )
        found: npt.NDArray[np.float32] = tf.sigmoid(logits)[:, 0].numpy()
        return found
