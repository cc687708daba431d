"""Readers: what they are interested in and how that drifts; what they are shown, click and read."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genre_tf.synth.catalogue import ENTITIES_PER_TOPIC, ENTITY_SHARE, Catalogue
from genre_tf.synth.settings import NewsroomSettings

FOLLOWED = 3  # entities that a reader follows, spread over the interests
FAVOURITES = (2, 3)  # categories, from and to
INTERESTING_SHARE = 0.6  # share of the subcategories of a favourite category
SMALLEST_WINDOW = 20  # articles that a pool may be drawn from, however few are recent
LONGEST_DWELL_SECONDS = 3600


class Readers:
    """The taste of every reader, as it is on the present day.

    A reader has a few favourite categories, which last; interests (subcategories) within them, which come
    and go; and some entities of these interests to follow. Taste thus shows in words: of topics, and names.

    Attributes:
        favourites: bool [readers, categories].
        interests: bool [readers, topics].
        followed: int32 [readers, FOLLOWED], entity numbers.
        activity: float64 [readers], share of the impressions; adds up to 1.
        anonymous: bool [readers], whose history is never known.
    """

    def __init__(self, settings: NewsroomSettings, catalogue: Catalogue, rng: np.random.Generator) -> None:
        self._settings = settings
        self._catalogue = catalogue
        categories = int(catalogue.category_of_topic.max()) + 1
        rank = rng.random((settings.readers, categories)).argsort(axis=1).argsort(axis=1)
        self.favourites = rank < rng.integers(*FAVOURITES, size=(settings.readers, 1), endpoint=True)
        possible = self.favourites[:, catalogue.category_of_topic]  # [readers, topics]
        draw = rng.random(possible.shape) * possible
        self.interests = draw > 1.0 - INTERESTING_SHARE
        self.interests[np.arange(len(draw)), draw.argmax(axis=1)] = True  # every reader has at least one
        size = (settings.readers, FOLLOWED, possible.shape[1])
        topic = (rng.random(size, dtype=np.float32) * self.interests[:, None, :]).argmax(axis=2)
        entity = rng.choice(ENTITIES_PER_TOPIC, size=topic.shape, p=ENTITY_SHARE)
        self.followed = (topic * ENTITIES_PER_TOPIC + entity).astype(np.int32)
        # A fixed number, of equal activity: a few very active ones by chance would move every mean.
        anonymous = math.ceil(settings.anonymous_share * settings.readers)
        self.anonymous = rng.permutation(settings.readers) < anonymous
        activity = rng.lognormal(sigma=0.8, size=settings.readers)
        activity[self.anonymous] = activity.mean()
        self.activity = activity / activity.sum()

    def drift(self, rng: np.random.Generator) -> None:
        """Let a day pass: some readers replace an interest, and the entities that they follow in it."""
        possible = self.favourites[:, self._catalogue.category_of_topic] & ~self.interests
        chance = self._settings.drift * possible.any(axis=1)
        moved = np.flatnonzero(rng.random(len(self.interests)) < chance)
        interests = self.interests[moved]
        lost = (rng.random(interests.shape) * interests).argmax(axis=1)
        found = (rng.random(interests.shape) * possible[moved]).argmax(axis=1)
        row = np.arange(len(moved))
        interests[row, lost] = False
        interests[row, found] = True
        self.interests[moved] = interests
        entity = rng.choice(ENTITIES_PER_TOPIC, size=(len(moved), FOLLOWED), p=ENTITY_SHARE)
        new = found[:, None] * ENTITIES_PER_TOPIC + entity
        followed = self.followed[moved]
        self.followed[moved] = np.where(followed // ENTITIES_PER_TOPIC == lost[:, None], new, followed)

    def taste(self, readers: NDArray[np.int64], articles: NDArray[np.int64]) -> NDArray[np.float64]:
        """How strongly each article [B, C] attracts its reader [B]: float64 [B, C], log-odds."""
        settings, catalogue = self._settings, self._catalogue
        interests = self.interests[readers]  # [B, topics]
        favourites = self.favourites[readers]  # [B, categories]
        topic = catalogue.topic[articles]  # [B, C]
        row = np.arange(len(readers))[:, None]
        about = catalogue.entities[articles]  # [B, C, 2]
        followed = self.followed[readers][:, None, None, :]  # [B, 1, 1, FOLLOWED]
        follows = (about[..., None] == followed).any(axis=(2, 3))  # [B, C]
        category = catalogue.category_of_topic[topic]  # [B, C]
        pull = np.where(favourites[row, category], settings.favourite_category, 0.0)
        pull += np.where(interests[row, topic], settings.interest, 0.0)
        return pull + np.where(follows, settings.followed_entity, 0.0)


@dataclass(frozen=True, slots=True)
class Pools:
    """Candidates of a block of impressions, right padded."""

    articles: NDArray[np.int64]  # [B, C], article rows in the (random) order in which they are shown
    mask: NDArray[np.bool_]  # [B, C], the real candidates
    probabilities: NDArray[np.float64]  # [B, C], of each click independently; 0 where padded


def draw_pools(
    readers: NDArray[np.int64],
    hours: NDArray[np.float64],
    tastes: Readers,
    catalogue: Catalogue,
    settings: NewsroomSettings,
    rng: np.random.Generator,
) -> Pools:
    """Show every reader some recent articles, in random order, so that a position means nothing.

    They are drawn with repetition, newer ones more often; a repeated article keeps only its first place.
    `readers` [B] are numbers, `hours` [B] times since the first logged midnight.
    """
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
    mask = ~repeated & (np.arange(articles.shape[1]) < size[:, None])
    probabilities = click_probabilities(readers, hours, articles, tastes, catalogue, settings)
    return Pools(articles, mask, np.where(mask, probabilities, 0.0))


def click_probabilities(
    readers: NDArray[np.int64],
    hours: NDArray[np.float64],
    articles: NDArray[np.int64],
    tastes: Readers,
    catalogue: Catalogue,
    settings: NewsroomSettings,
) -> NDArray[np.float64]:
    """The oracle: the true probability of each click, float64 [B, C].

    `readers` [B] are numbers, `hours` [B] times since the first logged midnight, `articles` [B, C] rows.
    """
    age_days = (hours[:, None] - catalogue.published_hours[articles]) / 24.0
    logits = settings.bias + tastes.taste(readers, articles)
    logits += settings.popularity * catalogue.quality[articles] - settings.freshness_decay * age_days
    logits += catalogue.headline[articles] + catalogue.attention(articles, hours[:, None])
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def draw_clicks(
    probabilities: NDArray[np.float64], mask: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw each click independently; repeat until at least one candidate is clicked and one is not.

    That is MIND's rule. The repetition changes the probabilities to those of `logged_probabilities`. All
    arrays are [B, C], with at least two candidates in a row.
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
    Within an impression this grows with p, so the order, and every ranking metric, is the same. All arrays
    are [B, C]; 0 where padded.
    """
    none = np.where(mask, 1.0 - probabilities, 1.0).prod(axis=1, keepdims=True)
    every = np.where(mask, probabilities, 1.0).prod(axis=1, keepdims=True)
    return np.where(mask, (probabilities - every) / (1.0 - none - every), 0.0)


class Dwell:
    """Draws reading times of clicks, longer if the click was likely, and remembers them for the histories.

    It has its own random generator, so that the rest of the newsroom is the same with and without it.
    """

    def __init__(self, settings: NewsroomSettings) -> None:
        self._settings = settings
        self._rng = np.random.Generator(np.random.PCG64([settings.seed, 1]))
        self._seconds: list[dict[str, int]] = [{} for _ in range(settings.readers)]

    def read(self, reader: int, news_ids: list[str], probabilities: NDArray[np.float64]) -> None:
        """Draw the reading times of a reader's clicks, from how likely each was: float64 [n]."""
        likely = probabilities.clip(1e-3, 1 - 1e-3)
        pull = self._settings.dwell_pull * np.log(likely / (1 - likely))
        noise = self._rng.normal(0.0, self._settings.dwell_noise, len(likely))
        seconds = (self._settings.dwell_seconds * np.exp(pull + noise)).round().clip(1, LONGEST_DWELL_SECONDS)
        self._seconds[reader].update(zip(news_ids, seconds.astype(int).tolist(), strict=True))

    def column(self, reader: int, news_ids: Iterable[str]) -> str:
        """The log's column for those of the articles that the reader has read, in the order given."""
        seconds, once = self._seconds[reader], dict.fromkeys(news_ids)
        return " ".join(f"{news_id}:dwell={seconds[news_id]}" for news_id in once if news_id in seconds)
