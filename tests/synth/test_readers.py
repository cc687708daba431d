"""Readers and clicks: tastes that pull and drift, positions that mean nothing, probabilities that hold."""

import itertools

import numpy as np
import pytest

from genre_tf.errors import InputError
from genre_tf.synth.catalogue import Catalogue, write_catalogue
from genre_tf.synth.readers import Readers, draw_clicks, draw_pools, logged_probabilities
from genre_tf.synth.settings import NewsroomSettings

SETTINGS = NewsroomSettings(articles=800, readers=300)


def generator(seed: int = 5) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return write_catalogue(SETTINGS, generator())


def test_what_is_clicked_in_the_log_follows_the_logged_probabilities() -> None:
    one = np.array([[0.5, 0.1, 0.2, 0.0], [0.9, 0.8, 0.7, 0.6]])
    mask = np.array([[True, True, True, False], [True, True, True, True]])
    probabilities = np.repeat(one, 40_000, axis=0)
    clicks = draw_clicks(probabilities, np.repeat(mask, 40_000, axis=0), generator())
    rates = clicks.reshape(2, 40_000, 4).mean(axis=1)
    np.testing.assert_allclose(rates, logged_probabilities(one, mask), atol=0.01)


def test_logged_probabilities_are_those_of_enumeration() -> None:
    p = np.array([0.3, 0.05, 0.6])
    chance, clicked = 0.0, np.zeros(3)
    for outcome in itertools.product([0, 1], repeat=3):
        if 0 < sum(outcome) < 3:
            weight = np.prod(np.where(outcome, p, 1 - p))
            chance, clicked = chance + weight, clicked + weight * np.array(outcome)
    np.testing.assert_allclose(logged_probabilities(p[None], np.ones((1, 3), bool))[0], clicked / chance)


def test_every_impression_has_a_click_and_a_non_click() -> None:
    mask = np.arange(6) < np.array([2, 3, 6] * 200)[:, None]
    clicks = draw_clicks(np.where(mask, 0.02, 0.0), mask, generator())
    assert (clicks.sum(axis=1) >= 1).all() and ((~clicks & mask).sum(axis=1) >= 1).all()
    assert not (clicks & ~mask).any()


def test_pools_hold_recent_articles_once_and_their_order_means_nothing(catalogue: Catalogue) -> None:
    rng = generator()
    readers = rng.integers(SETTINGS.readers, size=4_000)
    hours = np.sort(rng.uniform(0, 100, size=4_000))
    pools = draw_pools(readers, hours, Readers(SETTINGS, catalogue, rng), catalogue, SETTINGS, rng)
    age = hours[:, None] - catalogue.published_hours[pools.articles]
    assert (age[pools.mask] >= 0).all() and (age[pools.mask] <= SETTINGS.window_hours).all()
    for articles, mask in zip(pools.articles[:200], pools.mask[:200], strict=True):
        assert len(set(articles[mask])) == mask.sum() >= 2
    first, fifth = pools.probabilities[:, 0], pools.probabilities[:, 4][pools.mask[:, 4]]
    assert abs(first.mean() - fifth.mean()) < 0.01


def test_taste_is_in_category_subcategory_and_entities(catalogue: Catalogue) -> None:
    tastes = Readers(SETTINGS, catalogue, generator())
    articles = np.arange(SETTINGS.articles)[None, :]
    pull = tastes.taste(np.array([4]), articles)[0]
    interested = tastes.interests[4, catalogue.topic]
    favourite = tastes.favourites[4, catalogue.category_of_topic[catalogue.topic]]
    assert (pull[~favourite] == 0).all()
    assert pull[interested].min() >= SETTINGS.favourite_category + SETTINGS.interest
    followed = np.isin(catalogue.entities, tastes.followed[4]).any(axis=1)
    assert pull[interested & followed].min() == pull.max() > pull[interested & ~followed].max()


def test_interests_drift_within_the_favourite_categories(catalogue: Catalogue) -> None:
    rng = generator()
    tastes = Readers(SETTINGS, catalogue, rng)
    before = tastes.interests.copy()
    for _ in range(10):
        tastes.drift(rng)
    changed = (before != tastes.interests).any(axis=1)
    assert 0.05 < changed.mean() < 0.5
    np.testing.assert_array_equal(before.sum(axis=1), tastes.interests.sum(axis=1))
    assert (tastes.favourites[:, catalogue.category_of_topic] | ~tastes.interests).all()


@pytest.mark.parametrize(
    "wrong", [{"articles": 10}, {"readers": 0}, {"days": 1}, {"impressions": 3}, {"drift": 1.5}, {"seed": -1}]
)
def test_impossible_newsrooms_are_refused(wrong) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(wrong))} must be .*; got"):
        NewsroomSettings(**wrong)
