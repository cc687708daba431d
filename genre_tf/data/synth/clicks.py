"""Draws pools and clicks of readers, without position bias and with known probabilities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genre_tf.data.synth.catalogue import Catalogue
from genre_tf.data.synth.readers import Readers
from genre_tf.data.synth.settings import NewsroomSettings

SMALLEST_WINDOW = 20  # articles that a pool may be drawn from, however few are recent


@dataclass(frozen=True, slots=True)
class Pools:
    """Candidates of a block of impressions, right padded.

    Attributes:
        readers: int64 [B].
        hours: float64 [B], since the first logged midnight; ascending.
        articles: int64 [B, C], article rows in the (random) order in which they are shown.
        mask: bool [B, C], the real candidates.
        probabilities: float64 [B, C], of each click independently; 0 where padded.
    """

    readers: NDArray[np.int64]
    hours: NDArray[np.float64]
    articles: NDArray[np.int64]
    mask: NDArray[np.bool_]
    probabilities: NDArray[np.float64]


def draw_pools(
    readers: NDArray[np.int64],
    hours: NDArray[np.float64],
    tastes: Readers,
    catalogue: Catalogue,
    settings: NewsroomSettings,
    rng: np.random.Generator,
) -> Pools:
    """Show every reader some recent articles.

    Args:
        readers: int64 [B], reader numbers.
        hours: float64 [B], times of the impressions in hours since the first logged midnight.
        tastes: the readers.
        catalogue: the articles.
        settings: sizes and pulls.
        rng: the source of all randomness.

    Returns:
        The pools, B rows. The order of articles is random, so a position means nothing.
    """
    articles, mask = _draw_articles(hours, catalogue, settings, rng)
    age_days = (hours[:, None] - catalogue.published_hours[articles]) / 24.0
    logits = settings.bias + tastes.taste(readers, articles)
    logits += settings.popularity * catalogue.quality[articles] - settings.freshness_decay * age_days
    return Pools(readers, hours, articles, mask, np.where(mask, 1.0 / (1.0 + np.exp(-logits)), 0.0))


def _draw_articles(
    hours: NDArray[np.float64], catalogue: Catalogue, settings: NewsroomSettings, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw with repetition, newer articles more often; a repeated article keeps only its first place."""
    published = catalogue.published_hours
    size = rng.lognormal(np.log(settings.pool_size), 0.45, size=len(hours)).round().astype(np.int64)
    size = size.clip(5, settings.largest_pool)
    end = np.searchsorted(published, hours, side="right")
    start = np.searchsorted(published, hours - settings.window_hours)
    start = np.maximum(np.minimum(start, end - SMALLEST_WINDOW), 0)
    back = rng.random((len(hours), int(size.max()))) ** 1.3  # [B, C], 0 = newest
    articles = end[:, None] - 1 - (back * (end - start)[:, None]).astype(np.int64)
    order = articles.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(articles, order, axis=1)
    repeated = np.zeros(articles.shape, dtype=bool)
    np.put_along_axis(repeated[:, :], order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return articles, ~repeated & (np.arange(articles.shape[1]) < size[:, None])


def draw_clicks(
    probabilities: NDArray[np.float64], mask: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw each click independently; repeat until at least one candidate is clicked and one is not.

    That is MIND's rule. The repetition changes the probabilities to those of `logged_probabilities`.

    Args:
        probabilities: float64 [B, C].
        mask: bool [B, C]; at least two candidates per row.
        rng: the source of all randomness.

    Returns:
        bool [B, C].
    """
    clicks = np.zeros(mask.shape, dtype=bool)
    waiting = np.arange(len(mask))
    while waiting.size:
        drawn = (rng.random((waiting.size, mask.shape[1])) < probabilities[waiting]) & mask[waiting]
        clicks[waiting] = drawn
        count = drawn.sum(axis=1)
        waiting = waiting[(count == 0) | (count == mask[waiting].sum(axis=1))]
    return clicks


def logged_probabilities(probabilities: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The probability of each click in an impression that has at least one click and one non-click.

    With independent clicks, and N and A for "none" and "all" of them: (p - P(A)) / (1 - P(N) - P(A)).
    Within an impression this grows with p, so the order, and every ranking metric, is the same.

    Args:
        probabilities: float64 [B, C], of each click independently.
        mask: bool [B, C].

    Returns:
        float64 [B, C]; 0 where padded.
    """
    none = np.where(mask, 1.0 - probabilities, 1.0).prod(axis=1, keepdims=True)
    every = np.where(mask, probabilities, 1.0).prod(axis=1, keepdims=True)
    return np.where(mask, (probabilities - every) / (1.0 - none - every), 0.0)
