"""The texts of the newsroom: every story can be told, and headline and abstract tell the same one."""

import re

import numpy as np
import pytest

from genre_tf.synth.catalogue import (
    ENTITIES_PER_TOPIC,
    NO_ENTITY,
    Names,
    Story,
    kinds_of_names,
    read_topics,
    write_catalogue,
)
from genre_tf.synth.settings import NewsroomSettings

STORIES = [
    pytest.param(topic, event, id=f"{topic.subcategory}-{number}")
    for topic in read_topics()
    for number, event in enumerate(topic.events)
]


def generator(seed: int = 3) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_there_are_twelve_categories_with_several_subcategories() -> None:
    categories = [topic.category for topic in read_topics()]
    assert len(set(categories)) == 12
    assert all(categories.count(category) >= 2 for category in categories)
    assert len({topic.subcategory for topic in read_topics()}) == len(categories)


def test_every_kind_of_name_can_be_drawn() -> None:
    names = Names(generator())
    for kind in kinds_of_names():
        assert names.any(kind)


def test_an_entity_keeps_its_name_for_itself() -> None:
    names = Names(generator())
    dishes = [names.entity("dish") for _ in range(10)]
    assert len(set(dishes)) == 10
    assert names.any("dish") not in dishes


@pytest.mark.parametrize(("topic", "event"), STORIES)
def test_a_story_is_told_without_gaps_and_with_the_same_people_and_places(topic, event) -> None:
    rng = generator()
    names = Names(rng)
    star, other = names.entity(topic.kind), names.entity(topic.kind)
    assert len(event.headlines) >= 2 and len(event.abstracts) >= 2
    for _ in range(25):
        story = Story(topic, event, star, other, 2, names, rng)
        headline, abstract = story.headline(), story.abstract()
        for text in (headline, abstract):
            assert not re.search(r"[{}|\t\n]|//|  |\.\.|\ba ([aeiou]|8|11|18)|\b(the|a|of|in) \2\b", text), (
                text
            )
            assert star.lower() in text.lower()
            assert not event.has_other or other.lower() in text.lower()
        assert headline[0].isupper() or not headline[0].isalpha()
        assert abstract.endswith((".", "?"))


@pytest.mark.parametrize(("topic", "event"), STORIES)
def test_a_headline_has_support_in_its_abstract(topic, event) -> None:
    """Names and numbers of most headlines stand in the abstract too, so grounding can be checked."""
    rng = generator()
    names = Names(rng)
    supported = []
    for _ in range(40):
        star, other = names.any(topic.kind), names.any(topic.kind)
        story = Story(topic, event, star, other, 4, names, rng)
        headline, abstract = story.headline(), story.abstract()
        facts = set(re.findall(r"\d[\d,]*|(?<=\s)[A-Z]\w+", headline))
        supported.append(np.mean([fact in abstract for fact in facts]) if facts else 1.0)
    assert np.mean(supported) > 0.6


def test_articles_stand_in_order_of_publication_and_headlines_hardly_repeat() -> None:
    catalogue = write_catalogue(NewsroomSettings(articles=1_500), generator())
    assert (np.diff(catalogue.published_hours) >= 0).all()
    assert len({article.title for article in catalogue.articles}) > 1_480
    assert [article.news_id for article in catalogue.articles[:2]] == ["N1", "N2"]


def test_the_entities_of_an_article_stand_in_its_title() -> None:
    catalogue = write_catalogue(NewsroomSettings(articles=600), generator())
    for article, entities, topic in zip(catalogue.articles, catalogue.entities, catalogue.topic, strict=True):
        for entity in entities[entities != NO_ENTITY]:
            assert entity // ENTITIES_PER_TOPIC == topic
            assert catalogue.entity_names[entity].lower() in article.title.lower()
        assert f"{article.category}/{article.subcategory}" == catalogue.topics[topic]


def test_wordings_have_effects_on_request_and_nothing_else_changes_without_them() -> None:
    plain, told = (
        write_catalogue(NewsroomSettings(articles=300, headline=effect), generator()) for effect in (0.0, 0.3)
    )
    assert not plain.headlines and not plain.headline.any()
    for article, texts, effect in zip(told.articles, told.headlines, told.headline, strict=True):
        assert texts[article.title] == effect and len(texts) >= 4
    effects = np.concatenate([list(texts.values()) for texts in told.headlines])
    assert abs(effects.mean()) < 0.05 and 0.25 < effects.std() < 0.35


def test_attention_rises_and_falls_on_request() -> None:
    plain, waves = (
        write_catalogue(NewsroomSettings(articles=300, wave=mean), generator()) for mean in (0.0, 1.0)
    )
    assert plain.articles == waves.articles
    rows = np.arange(300)
    peak = waves.published_hours + waves.wave_hours
    np.testing.assert_allclose(waves.attention(rows, peak), waves.wave)
    for hours in (waves.published_hours - 1, waves.published_hours, peak + 48 * waves.wave_hours):
        np.testing.assert_allclose(waves.attention(rows, hours), 0, atol=1e-6)
    assert (waves.attention(rows, peak - 1) < waves.wave).all() and 0.8 < waves.wave.mean() < 1.2
    assert not plain.attention(rows, peak).any()
