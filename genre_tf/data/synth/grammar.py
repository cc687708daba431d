"""Writes one event twice, as a headline and as an abstract, from templates with the same slots.

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

Names are invented, from the word lists of `names.txt`: no person or thing in the newsroom is real, so no
pretrained model knows them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np

from genre_tf.errors import FailureError

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COMMON_SLOTS = {"few": ("2..6",), "coach": ("{person}",)}
CLOSING_SENTENCE_SHARE = 0.7

_SLOT = re.compile(r"\{(\w+)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

KINDS: Mapping[str, str] = {
    "person": "{first} {last}",
    "town": "{town_start}{town_end}",
    "country": "{land_start}{land_end}",
    "company": "{firm_start}{firm_end}",
    "football_team": "{town} {grid_animal}",
    "basketball_team": "{town} {court_animal}",
    "politician": "{person}",
    "institute": "{town} {school}",
    "commodity": "{commodity}",
    "district": "{town} {side}",
    "airline": "{firm_start} {carrier}",
    "destination": "{town_start}{town_end} {sight}",
    "hotel": "{town} {house}",
    "dish": "{dish}",
    "restaurant": "{last} {table}",
    "drink": "{drink}",
    "royal": "{royal} of {country}",
    "plant": "{plant}",
    "pet": "{pet}",
    "storm": "{gust} {first}",
    "region": "{town_start}{town_end} {part}",
    "illness": "{illness}",
    "food": "{food}",
    "exercise": "{exercise}",
    "carmaker": "{last} {maker}",
    "classic": "{last} {model}",
    "motorcycle": "{last} {rider}",
    "show": "{adjective} {noun}",
    "host": "{person}",
    "reality_show": "{talent} {contest}",
    "band": "{adjective} {band_noun}",
    "singer": "{person}",
    "festival": "{town} {noun}",
    "film": "The {adjective} {noun}",
    "actor": "{person}",
    "director": "{person}",
}

_TRIES = 1_000


@cache
def _words() -> dict[str, tuple[str, ...]]:
    """The word lists of `names.txt`: `name = one | two`."""
    text = (files("genre_tf.data.synth") / "names.txt").read_text(encoding="utf-8")
    rows = (line.split(" = ", maxsplit=1) for line in text.splitlines())
    return {name: tuple(words.split(" | ")) for name, words in rows}


class Names:
    """Draws names; the names of entities never repeat, other names may."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._taken: set[str] = set()

    def entity(self, kind: str) -> str:
        """A name of a `kind` (a key of `KINDS`) that no other entity gets."""
        name = self.any(kind)
        self._taken.add(name)
        return name

    def any(self, kind: str) -> str:
        """A name for a person or thing of a `kind` that no reader follows: never one of `entity`'s."""
        for _ in range(_TRIES):
            name = self._expand(KINDS[kind])
            if name not in self._taken:
                return name
        raise FailureError(f"the newsroom has run out of names of the kind {kind!r}; ask for fewer entities")

    def _expand(self, template: str) -> str:
        words = _words()

        def word(match: re.Match[str]) -> str:
            name = match[1]
            if name in words:
                return words[name][self._rng.integers(len(words[name]))]
            return self._expand(KINDS[name])

        return _SLOT.sub(word, template)


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
    folder = files("genre_tf.data.synth") / "stories"
    texts = {
        path.name.removesuffix(".txt"): path.read_text("utf-8")
        for path in folder.iterdir()
        if path.name.endswith(".txt")
    }
    return tuple(topic for category in sorted(texts) for topic in _parse(category, texts[category]))


def _parse(category: str, text: str) -> list[Topic]:
    topics: list[Topic] = []
    slots: Slots = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match line.split(maxsplit=1):
            case []:
                continue
            case ["topic", heading]:
                subcategory, _, kind = heading.partition(" about ")
                topics.append(Topic(category, subcategory, kind))
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
                raise ValueError(f"stories/{category}.txt:{number}: not a line of a story: {line!r}")
    return topics


class Story:
    """One event with its slots filled; a slot has the same value everywhere.

    Args:
        topic: where it belongs.
        event: what happens; one of the topic's.
        star: name of the entity that the story is about.
        other: name of the second entity, if the event has one.
        weekday: weekday of publication, 0 = Monday.
        names: draws all other names.
        rng: the source of all randomness.
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
        return _capital(self._tell(self._pick(self._event.headlines), past=False))

    def abstract(self) -> str:
        """One of the event's abstracts, and mostly a closing sentence of the topic: past tense."""
        sentences = [self._pick(self._event.abstracts)]
        if self._rng.random() < CLOSING_SENTENCE_SHARE:
            sentences.append(self._pick(self._topic.closings))
        return " ".join(_capital(self._tell(sentence, past=True)) for sentence in sentences)

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
        if kind not in KINDS:
            raise ValueError(f"{self._topic.category}/{self._topic.subcategory}: unknown slot {{{name}}}")
        return self._names.any(kind)


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
