"""Every article of the newsroom, with its true topic, entities and quality; and its text.

A story is one event that is told twice, as a headline and as an abstract, from templates with the same slots.
The templates are text files, one a category, in `stories/`:

    topic SUBCATEGORY about KIND     a subcategory, and what kind of entity its stories are about
      + a sentence                   may close any abstract of the topic
      slot = one | two               alternatives; `present // past` differ between headline and abstract
      slot = 3..12                   a whole number
    event                            something that happens
      > a headline
      < an abstract
      slot = ...                     for this event only; goes before the topic's slot of that name

`{star}` is the entity that the story is about, `{other}` another one of the topic, `{last}` the star's last
name, `{day}` the weekday of publication. `{person2}` is another `{person}`: any kind of name is a slot.

Names are invented, from the words and templates of `names.txt`, one line for each kind: no person or thing in
the newsroom is real, so no pretrained model knows them.
"""

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from genre_tf.data.articles import Article
from genre_tf.errors import FailureError
from genre_tf.synth.settings import NewsroomSettings

ENTITIES_PER_TOPIC = 10
# Some are in the news every day, so that readers often meet the entities that they follow.
ENTITY_SHARE = 1.0 / np.arange(1, ENTITIES_PER_TOPIC + 1)
ENTITY_SHARE /= ENTITY_SHARE.sum()
NO_ENTITY = -1

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COMMON_SLOTS = {"few": ("2..6",), "coach": ("{person}",)}
CLOSING_SENTENCE_SHARE = 0.7
WAVE_HOURS = 4.0  # median time from publication to the peak of attention

_NEW_TITLE_TRIES = 20
_NAME_TRIES = 1_000
_SLOT = re.compile(r"\{(\w+)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@cache
def kinds_of_names() -> dict[str, tuple[str, ...]]:
    """The lines of `names.txt`, `kind = one | two`: words or templates by kind."""
    text = (files(__package__) / "names.txt").read_text(encoding="utf-8")
    rows = (line.split(" = ", maxsplit=1) for line in text.splitlines())
    return {kind: tuple(words.split(" | ")) for kind, words in rows}


class Names:
    """Draws names; the names of entities never repeat, other names may."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def entity(self, kind: str) -> str:
        """A name of a kind that no other entity gets."""
        name = self.any(kind)
        self._taken.add(name)
        return name

    def any(self, kind: str) -> str:
        """A name for a person or thing of a kind that no reader follows: never one of `entity`'s."""
        for _ in range(_NAME_TRIES):
            name = self._word(kind)
            if name not in self._taken:
                return name
        raise FailureError(f"the newsroom has run out of names of the kind {kind!r}; ask for fewer entities")

    def _word(self, kind: str) -> str:
        words = kinds_of_names()[kind]
        return _SLOT.sub(lambda match: self._word(match[1]), words[self._rng.integers(len(words))])


Slots = dict[str, tuple[str, ...]]


@dataclass(slots=True)
class Event:
    """Something that happens, in several wordings."""

    headlines: list[str] = field(default_factory=list)
    abstracts: list[str] = field(default_factory=list)
    slots: Slots = field(default_factory=dict)

    @property
    def has_other(self) -> bool:
        """Whether a second entity of the topic takes part."""
        return "{other}" in self.headlines[0]


@dataclass(slots=True)
class Topic:
    """A subcategory and its events."""

    category: str
    subcategory: str
    kind: str
    closings: list[str] = field(default_factory=list)
    slots: Slots = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


@cache
def read_topics() -> tuple[Topic, ...]:
    """All topics, by category and in the order of its file; the same ones for every newsroom."""
    topics: list[Topic] = []
    stories = (path for path in (files(__package__) / "stories").iterdir() if path.name.endswith(".txt"))
    for path in sorted(stories, key=lambda path: path.name):
        slots: Slots = {}
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            match line.split(maxsplit=1):
                case []:
                    continue
                case ["topic", heading]:
                    subcategory, _, kind = heading.partition(" about ")
                    topics.append(Topic(path.name.removesuffix(".txt"), subcategory, kind))
                    slots = topics[-1].slots
                case ["event"]:
                    topics[-1].events.append(Event())
                    slots = topics[-1].events[-1].slots
                case [">", headline]:
                    topics[-1].events[-1].headlines.append(headline)
                case ["<", abstract]:
                    topics[-1].events[-1].abstracts.append(abstract)
                case ["+", closing]:
                    topics[-1].closings.append(closing)
                case [name, rest] if rest.startswith("= "):
                    slots[name] = tuple(rest[2:].split(" | "))
                case _:
                    raise ValueError(f"stories/{path.name}:{number}: not a line of a story: {line!r}")
    return tuple(topics)


class Story:
    """One event of a topic with its slots filled; a slot has the same value everywhere.

    `star` and `other` are names of entities, `names` draws all other names. Weekday 0 is Monday.
    """

    def __init__(
        self,
        topic: Topic,
        event: Event,
        star: str,
        other: str,
        weekday: int,
        names: Names,
        rng: np.random.Generator,
    ) -> None:
        self._topic, self._event, self._names, self._rng = topic, event, names, rng
        later = (weekday + 1 + int(rng.integers(6))) % 7
        self._drawn = {
            "star": star,
            "other": other,
            "last": star.split(" ")[-1],
            "day": WEEKDAYS[weekday],
            "day2": WEEKDAYS[later],
        }

    def headline(self) -> str:
        """One of the event's headlines: present tense, no closing mark."""
        return self._sentence(self._pick(self._event.headlines), past=False)

    def abstract(self) -> str:
        """One of the event's abstracts, and mostly a closing sentence of the topic: past tense."""
        sentences = [self._pick(self._event.abstracts)]
        if self._rng.random() < CLOSING_SENTENCE_SHARE:
            sentences.append(self._pick(self._topic.closings))
        return " ".join(self._sentence(sentence, past=True) for sentence in sentences)

    def wordings(self) -> dict[str, str]:
        """All headlines of the event, then its abstracts without closings: text to template."""
        ways = [(template, False) for template in self._event.headlines]
        ways += [(template, True) for template in self._event.abstracts]
        return {self._sentence(template, past): template for template, past in ways}

    def _sentence(self, template: str, past: bool) -> str:
        text = self._tell(template, past)
        return text[0].upper() + text[1:]

    def _pick(self, options: list[str] | tuple[str, ...]) -> str:
        return options[self._rng.integers(len(options))]

    def _tell(self, template: str, past: bool) -> str:
        def fill(match: re.Match[str]) -> str:
            if match[1] not in self._drawn:
                self._drawn[match[1]] = self._draw(match[1])
            present_form, _, past_form = self._drawn[match[1]].partition(" // ")
            return self._tell(past_form if past and past_form else present_form, past)

        return _SLOT.sub(fill, template)

    def _draw(self, name: str) -> str:
        for slots in (self._event.slots, self._topic.slots, COMMON_SLOTS):
            if name in slots:
                value = self._pick(slots[name])
                if numbers := _RANGE.fullmatch(value):
                    value = f"{self._rng.integers(int(numbers[1]), int(numbers[2]) + 1):,}"
                return value
        kind = name.rstrip("0123456789")
        if kind not in kinds_of_names():
            raise ValueError(f"{self._topic.category}/{self._topic.subcategory}: unknown slot {{{name}}}")
        return self._names.any(kind)


@dataclass(frozen=True)
class Catalogue:
    """Articles in order of publication."""

    articles: list[Article]  # n articles
    published_hours: NDArray[np.float64]  # [n], ascending, since the first logged midnight
    topic: NDArray[np.int32]  # [n]
    entities: NDArray[np.int32]  # [n, 2], entity numbers; entity e belongs to topic e // ENTITIES_PER_TOPIC
    quality: NDArray[np.float64]  # [n], latent, standard normal
    headline: NDArray[np.float64]  # [n], effect of the title's wording in log-odds
    # Of each article the texts that tell it, with their effects in log-odds; empty without such effects.
    headlines: list[dict[str, float]]
    wave: NDArray[np.float64]  # [n], what the peak of attention adds in log-odds
    wave_hours: NDArray[np.float64]  # [n], from publication to the peak
    category_of_topic: NDArray[np.int32]  # [topics]
    topics: list[str]  # names, `category/subcategory`
    entity_names: list[str]

    def attention(self, articles: NDArray[np.int64], hours: NDArray[np.float64]) -> NDArray[np.float64]:
        """What attention, which rises and falls, adds to articles at some times, in log-odds: [B, C]."""
        part = np.maximum(hours - self.published_hours[articles], 0.0) / self.wave_hours[articles]
        return np.asarray(self.wave[articles] * part * np.exp(1.0 - part))


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
    effects = _effects_of_wordings(settings, topics)
    headline, headlines = np.zeros(settings.articles), []
    waves = np.random.Generator(np.random.PCG64([settings.seed, 3]))  # of its own, as `Dwell` has
    for row in range(settings.articles):
        of_topic = topics[topic[row]]
        about = [entity_names[entity] for entity in entities[row]]
        weekday = int(published[row] // 24) % 7
        for _ in range(_NEW_TITLE_TRIES):
            event = of_topic.events[rng.integers(len(of_topic.events))]
            story = Story(of_topic, event, about[0], about[1], weekday, names, rng)
            title = story.headline()
            if title not in titles:
                break
        titles.add(title)
        texts = (of_topic.category, of_topic.subcategory, title, story.abstract())
        articles.append(Article(f"N{row + 1}", *texts))
        if effects:
            headlines.append({text: effects[template] for text, template in story.wordings().items()})
            headline[row] = headlines[row][title]
        if not event.has_other:
            entities[row, 1] = NO_ENTITY
    return Catalogue(
        articles=articles,
        published_hours=published,
        topic=topic,
        entities=entities.astype(np.int32),
        quality=rng.standard_normal(settings.articles),
        headline=headline,
        headlines=headlines,
        wave=settings.wave * waves.standard_exponential(settings.articles),
        wave_hours=WAVE_HOURS * waves.lognormal(0.0, 0.5, settings.articles),
        category_of_topic=np.array([categories.index(topic.category) for topic in topics], dtype=np.int32),
        topics=[f"{topic.category}/{topic.subcategory}" for topic in topics],
        entity_names=entity_names,
    )


def _effects_of_wordings(settings: NewsroomSettings, topics: tuple[Topic, ...]) -> dict[str, float]:
    """The effect of each template in log-odds; it has its own random generator, as `Dwell` has."""
    if not settings.headline:
        return {}
    rng = np.random.Generator(np.random.PCG64([settings.seed, 2]))
    events = [event for topic in topics for event in topic.events]
    templates = [template for event in events for template in (*event.headlines, *event.abstracts)]
    return dict(zip(templates, rng.normal(0.0, settings.headline, len(templates)).tolist(), strict=True))
