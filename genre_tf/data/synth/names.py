"""Invented names: no person or thing in the newsroom is real, so no pretrained model knows the names."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import numpy as np

from genre_tf.errors import FailureError

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

_SLOT = re.compile(r"\{(\w+)\}")
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
        """Start with every name available.

        Args:
            rng: the source of all randomness.
        """
        self._rng = rng
        self._taken: set[str] = set()

    def any(self, kind: str) -> str:
        """A name for a person or thing of `kind` that no reader follows.

        Args:
            kind: a key of `KINDS`.

        Returns:
            The name; never one of `entity`'s.
        """
        return self._draw(kind)

    def entity(self, kind: str) -> str:
        """A name that no other entity gets.

        Args:
            kind: a key of `KINDS`.

        Returns:
            The name.
        """
        name = self._draw(kind)
        self._taken.add(name)
        return name

    def _draw(self, kind: str) -> str:
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
