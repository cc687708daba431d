"""Every article of the newsroom, with its true topic, entities and quality."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genre_tf.data.articles import Article
from genre_tf.data.synth.grammar import Names, Story, Topic, read_topics
from genre_tf.data.synth.settings import NewsroomSettings

ENTITIES_PER_TOPIC = 10
# Some are in the news every day, so that readers often meet the entities that they follow.
ENTITY_SHARE = 1.0 / np.arange(1, ENTITIES_PER_TOPIC + 1)
ENTITY_SHARE /= ENTITY_SHARE.sum()
NO_ENTITY = -1
_NEW_TITLE_TRIES = 20


@dataclass(frozen=True)
class Catalogue:
    """Articles in order of publication.

    Attributes:
        articles: n articles.
        published_hours: float64 [n], ascending, since the first logged midnight (negative = before it).
        topic: int32 [n].
        entities: int32 [n, 2], entity numbers, -1 = none; entity e belongs to topic e // entities_per_topic.
        quality: float64 [n], latent, standard normal.
        category_of_topic: int32 [topics].
        topics: the topics' names, `category/subcategory`.
        entity_names: names of all entities.
        entities_per_topic: the same for all topics.
    """

    articles: list[Article]
    published_hours: NDArray[np.float64]
    topic: NDArray[np.int32]
    entities: NDArray[np.int32]
    quality: NDArray[np.float64]
    category_of_topic: NDArray[np.int32]
    topics: list[str]
    entity_names: list[str]
    entities_per_topic: int = ENTITIES_PER_TOPIC


def write_catalogue(settings: NewsroomSettings, rng: np.random.Generator) -> Catalogue:
    """Write the articles of all days, logged or not; headlines repeat only where a topic has no new ones."""
    topics = read_topics()
    categories = sorted({topic.category for topic in topics})
    names = Names(rng)
    entity_names = [names.entity(topic.kind) for topic in topics for _ in range(ENTITIES_PER_TOPIC)]
    # Some subcategories are larger than others, as in real news.
    weight = rng.uniform(0.6, 1.6, size=len(topics))
    topic = rng.choice(len(topics), size=settings.articles, p=weight / weight.sum()).astype(np.int32)
    # Evenly over the days, from one window before the first impression to the last midnight.
    start = -24.0 * settings.earlier_days - settings.window_hours
    published = np.sort(rng.uniform(start, 24.0 * settings.days, size=settings.articles))
    first = rng.choice(ENTITIES_PER_TOPIC, size=settings.articles, p=ENTITY_SHARE)
    second = (first + rng.integers(1, ENTITIES_PER_TOPIC, size=settings.articles)) % ENTITIES_PER_TOPIC
    entities = topic[:, None] * ENTITIES_PER_TOPIC + np.stack([first, second], axis=1)
    articles = []
    titles: set[str] = set()
    for row in range(settings.articles):
        about = [entity_names[entity] for entity in entities[row]]
        weekday = int(published[row] // 24) % 7
        article, has_other = _write(row, topics[topic[row]], about, weekday, titles, names, rng)
        articles.append(article)
        if not has_other:
            entities[row, 1] = NO_ENTITY
    return Catalogue(
        articles=articles,
        published_hours=published,
        topic=topic,
        entities=entities.astype(np.int32),
        quality=rng.standard_normal(settings.articles),
        category_of_topic=np.array([categories.index(topic.category) for topic in topics], dtype=np.int32),
        topics=[f"{topic.category}/{topic.subcategory}" for topic in topics],
        entity_names=entity_names,
    )


def _write(
    row: int,
    topic: Topic,
    about: list[str],
    weekday: int,
    titles: set[str],
    names: Names,
    rng: np.random.Generator,
) -> tuple[Article, bool]:
    for _ in range(_NEW_TITLE_TRIES):
        event = topic.events[rng.integers(len(topic.events))]
        story = Story(topic, event, about[0], about[1], weekday, names, rng)
        title = story.headline()
        if title not in titles:
            break
    titles.add(title)
    return (
        Article(f"N{row + 1}", topic.category, topic.subcategory, title, story.abstract()),
        event.has_other,
    )
