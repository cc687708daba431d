"""What the operator decides: pins, blocks and caps from a TOML file, and which readers get which version."""

import hashlib
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from genre_tf.errors import InputError
from genre_tf.settings import Section, from_table, within


@dataclass(frozen=True, kw_only=True)
class Pin(Section, section="pins"):
    """An article that has a fixed place until the reader has read it."""

    article: str
    place: int = within(1, 1)  # 1 is the first
    until: datetime | None = None  # on this machine's clock unless it has an offset


@dataclass(frozen=True, kw_only=True)
class Rules(Section, section="rules"):
    """Rules for every feed."""

    blocked: tuple[str, ...] = ()  # articles that are never shown
    max_per_category: int = within(1_000, 1)  # pins are not counted
    caps: dict[str, int] = field(default_factory=dict)  # the same for single categories
    pins: tuple[Pin, ...] = ()

    @classmethod
    def read(cls, file: Path) -> "Rules":
        """Read a file; anything wrong is an `InputError`."""
        try:
            return from_table(cls, tomllib.loads(file.read_text("utf-8-sig")), str(file))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{file} cannot be read as TOML: {error}") from None

    def arranged(
        self,
        ranked: Iterable[str],
        k: int,
        never: Collection[str],
        category_of: Callable[[str], str],
        now: datetime | None = None,
    ) -> tuple[list[str], set[str]]:
        """The articles to show and those of them that are pinned: the best `k` of `ranked` by the rules.

        Args:
            ranked: articles, the best first; may repeat some.
            k: how many to show.
            never: articles that are not shown to this reader.
            category_of: the category of an article, "" if it is unknown.
            now: the moment, with an offset.
        """
        moment = now or datetime.now().astimezone()
        pins = {
            pin.place: pin.article
            for pin in self.pins
            if pin.article not in never and (pin.until is None or pin.until.astimezone() > moment)
        }
        left_out = {*never, *self.blocked, *pins.values()}
        shown: list[str] = []
        counted: Counter[str] = Counter()
        rest = iter(ranked)
        while len(shown) < k:
            pinned = pins.get(len(shown) + 1)
            one = pinned or next((each for each in rest if each not in left_out), None)
            if one is None:
                break
            left_out.add(one)
            category = category_of(one)
            if pinned is None and category:
                if counted[category] >= self.caps.get(category, self.max_per_category):
                    continue
                counted[category] += 1
            shown.append(one)
        return shown, set(pins.values()) & set(shown)


class RulesFile:
    """The rules of a file, read again when it has changed; a file with a fault changes nothing."""

    def __init__(self, file: Path | None, say: Callable[[str], None] = lambda text: None) -> None:
        self._file, self._say = file, say
        self.rules = Rules() if file is None else Rules.read(file)
        self._seen = self._stamp()

    def look(self) -> None:
        """Read the file if it has changed."""
        stamp = self._stamp()
        if self._file is None or stamp == self._seen:
            return
        self._seen = stamp
        try:
            self.rules = Rules.read(self._file)
        except InputError as error:
            self._say(f"the rules stay as they were: {error}")

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = None if self._file is None else self._file.stat()
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_size)


STABLE = "stable"
"""Label of the version that readers without a share get."""


@dataclass(frozen=True)
class Rollout:
    """Which label of the model server answers a reader: always the same one for the same reader.

    Without a label TensorFlow Serving answers with the newest version, which may be the one that is tried. So
    all other readers get the version labelled `stable`, if there is one.
    """

    shares: Mapping[str, float]  # label -> share of the readers, at most 1 in all
    salt: str

    def label(self, reader: str) -> str:
        """The label; `stable` for most readers."""
        digest = hashlib.sha256(f"{self.salt}\0{reader}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        for label, share in self.shares.items():
            if place < share:
                return label
            place -= share
        return STABLE


def parse_shares(given: Iterable[str]) -> dict[str, float]:
    """Parse LABEL=5% or LABEL=0.05, several times.

    Raises:
        InputError: one is not of this form, or together they are more than all readers.
    """
    shares = {}
    for text in given:
        label, _, number = text.partition("=")
        try:
            share = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not label or not 0 <= share <= 1:
            raise InputError(f"--canary must be LABEL=SHARE, such as canary=5%; got {text!r}")
        shares[label] = share
    if sum(shares.values()) > 1 + 1e-9:
        raise InputError(f"the shares of --canary add up to {sum(shares.values()):.0%}, more than 100%")
    return shares
