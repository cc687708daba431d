"""Readers: what they are interested in, whom they follow, and how that drifts."""

import math

import numpy as np
from numpy.typing import NDArray

from genre_tf.data.synth.catalogue import ENTITY_SHARE, Catalogue
from genre_tf.data.synth.settings import NewsroomSettings

FOLLOWED = 3  # entities that a reader follows, spread over the interests
FAVOURITES = (2, 3)  # categories, from and to
INTERESTING_SHARE = 0.6  # share of the subcategories of a favourite category


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
        """Draw the readers.

        Args:
            settings: the size of the newsroom and the pulls.
            catalogue: the articles, topics and entities.
            rng: the source of all randomness.
        """
        self._settings = settings
        self._catalogue = catalogue
        self.favourites = self._draw_favourites(rng)
        self.interests = self._draw_interests(rng)
        self.followed = self._follow(self.interests, rng)
        # A fixed number, of equal activity: a few very active ones by chance would move every mean.
        anonymous = math.ceil(settings.anonymous_share * settings.readers)
        self.anonymous = rng.permutation(settings.readers) < anonymous
        activity = rng.lognormal(sigma=0.8, size=settings.readers)
        activity[self.anonymous] = activity.mean()
        self.activity = activity / activity.sum()

    def _draw_favourites(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        categories = int(self._catalogue.category_of_topic.max()) + 1
        rank = rng.random((self._settings.readers, categories)).argsort(axis=1).argsort(axis=1)
        return rank < rng.integers(*FAVOURITES, size=(self._settings.readers, 1), endpoint=True)

    def _draw_interests(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        possible = self.favourites[:, self._catalogue.category_of_topic]  # [readers, topics]
        draw = rng.random(possible.shape) * possible
        interests = draw > 1.0 - INTERESTING_SHARE
        interests[np.arange(len(draw)), draw.argmax(axis=1)] = True  # every reader has at least one
        return interests

    def _follow(self, interests: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int32]:
        readers, topics = interests.shape
        draw = rng.random((readers, FOLLOWED, topics), dtype=np.float32) * interests[:, None, :]
        topic = draw.argmax(axis=2)  # [readers, FOLLOWED]
        per_topic = self._catalogue.entities_per_topic
        return (topic * per_topic + rng.choice(per_topic, size=topic.shape, p=ENTITY_SHARE)).astype(np.int32)

    def drift(self, rng: np.random.Generator) -> None:
        """Let a day pass: some readers replace an interest, and the entities that they follow in it.

        Args:
            rng: the source of all randomness.
        """
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
        per_topic = self._catalogue.entities_per_topic
        new = found[:, None] * per_topic + rng.choice(per_topic, size=(len(moved), FOLLOWED), p=ENTITY_SHARE)
        followed = self.followed[moved]
        self.followed[moved] = np.where(followed // per_topic == lost[:, None], new, followed)

    def taste(self, readers: NDArray[np.int64], articles: NDArray[np.int64]) -> NDArray[np.float64]:
        """How strongly each article attracts its reader.

        Args:
            readers: int64 [B], reader numbers.
            articles: int64 [B, C], article rows.

        Returns:
            float64 [B, C], log-odds.
        """
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
