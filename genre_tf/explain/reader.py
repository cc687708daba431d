"""What a reader likes, in one sentence.

It is not written by a language model: categories, counts and words come from the articles that the reader
clicked, and each word comes with the clicks whose titles contain it, so that everything can be verified.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.evaluation.scoring import TwoTowerScorer, open_run
from genre_tf.generation.grounding import FUNCTION_WORDS, common_words_of
from genre_tf.generation.safety import SafetyList
from genre_tf.models.checkpoint import CACHE_FOLDER, load_two_tower

Histories = Mapping[str, Sequence[str]]
"""Reader -> ids of their clicks, oldest first."""

MOST_CATEGORIES, MOST_WORDS = 3, 4  # in a sentence
LEAST_SHARE = 0.15  # of a category among the counted clicks; a smaller share is chance, not taste
FEW_CLICKS = 3  # up to this many clicks, a word or category may be named after a single click
_NAME_VALUE = 2.0  # relative to an equally rare word: "Texas" names a topic, "dies" does not
_LOOKED_AT = 32  # number of a reader's words that are checked against the safety list
# A word. One that begins with a digit names no topic, and scripts without spaces have no words here.
_WORD = re.compile(r"[^\W\d_][^\W_]*(?:[.&'’-][^\W_]+)*")
_NO_SPACES = re.compile("[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_POSSESSIVE, _CONTRACTION = re.compile(r"['’]s$"), re.compile(r"['’](?:t|re|ve|ll|d|m)$")
_COMMON = frozenset(FUNCTION_WORDS)


@dataclass(frozen=True)
class Click:
    """A click of a reader; a category is "" if it is unknown."""

    news_id: str
    title: str
    category: str
    subcategory: str
    share: float  # weight of the click among all of the reader's clicks, which sum to 1


@dataclass(frozen=True)
class LikedCategory:
    """A category; `mostly` is a subcategory with at least half of its clicks, else ""."""

    name: str
    clicks: int
    share: float  # of the counted clicks
    mostly: str


@dataclass(frozen=True)
class LikedWord:
    """A word or two adjacent words, spelled as in the titles, and the clicks whose titles contain it."""

    text: str
    news_ids: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """What a reader likes: in a sentence, and the clicks, categories and words behind it, strongest first."""

    sentence: str
    clicks: int
    unknown: int  # clicks on unknown articles, which are left out
    categories: tuple[LikedCategory, ...]
    words: tuple[LikedWord, ...]


class TitleWords:
    """How informative words are: of two with equally many clicks, the rarer one says more of the reader."""

    def __init__(self, titles: Iterable[str], abstracts: Iterable[str] = ()) -> None:
        known = list(titles)
        self._common = frozenset(common_words_of(known, abstracts))
        self._titles, self._with_word = len(known), Counter[str]()
        for title in known:
            self._with_word.update({_key(word) for word in _WORD.findall(title)})

    def value(self, key: str) -> float:
        """Inverse document frequency in nats, higher for names; an unknown word counts as seen once.

        0 for a word in half of all titles, because it does not distinguish readers.
        """
        rarity = math.log((self._titles + 1) / max(self._with_word[key], 1))
        if rarity < math.log(2):
            return 0.0
        return rarity if key in self._common else _NAME_VALUE * rarity


def profile(
    clicks: Sequence[Click], words: TitleWords, safety: SafetyList | None = None, unknown: int = 0
) -> Profile:
    """Describe what a reader likes."""
    often = 1 if len(clicks) <= FEW_CLICKS else 2
    categories = _categories(clicks, often)
    liked = _words(clicks, words, often, safety or SafetyList())
    sentence = _sentence(len(clicks), categories, liked, often)
    if unknown and not clicks:
        sentence = f"Has clicked {_number(unknown, 'article')}, of which nothing is known."
    elif unknown:
        sentence += f" Not counted: {_number(unknown, 'click')} on unknown articles."
    return Profile(sentence, len(clicks), unknown, categories, liked)


def profiles(
    run: Path, known: Mapping[str, Article], histories: Histories, safety: SafetyList | None = None
) -> Iterator[tuple[str, Profile]]:
    """Reader and profile, whose clicks are weighted as the run's user tower weights them.

    Clicks on articles that are not `known` are left out and counted; of the others, the newest that the run's
    models read are used.
    """
    newest = open_run(run).data.max_history
    clicks = {
        reader: [known[news_id] for news_id in history if news_id in known][-newest:]
        for reader, history in histories.items()
    }
    table = ArticleTable(article for of_reader in clicks.values() for article in of_reader)
    rows = [table.rows([article.news_id for article in of_reader]) for of_reader in clicks.values()]
    towers = load_two_tower(run)
    all_shares: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
    if len(table) > 1:  # unless no reader has clicked anything
        scorer = TwoTowerScorer(towers, towers.news.embed(towers.news.features(table, run / CACHE_FOLDER)))
        all_shares = scorer.click_shares(rows)
    words = TitleWords(*zip(*((article.title, article.abstract) for article in known.values()), strict=True))
    for (reader, of_reader), shares in zip(clicks.items(), all_shares, strict=True):
        weighed = [
            Click(one.news_id, one.title, one.category, one.subcategory, share)
            for one, share in zip(of_reader, shares.tolist(), strict=True)
        ]
        unknown = sum(news_id not in known for news_id in histories[reader])
        yield reader, profile(weighed, words, safety, unknown)


def _categories(clicks: Sequence[Click], often: int) -> tuple[LikedCategory, ...]:
    groups: dict[str, list[Click]] = defaultdict(list)
    for click in clicks:
        if click.category:
            groups[click.category].append(click)
    found = []
    for name, group in groups.items():
        share = sum(click.share for click in group)
        parts: dict[str, float] = defaultdict(float)
        for click in group:
            parts[click.subcategory] += click.share
        mostly, part = max(parts.items(), key=lambda item: item[1])
        shown = mostly if mostly != name and len(group) >= often and part >= share / 2 else ""
        found.append(LikedCategory(name, len(group), share, shown))
    liked = [one for one in found if one.share >= LEAST_SHARE and one.clicks >= often]
    return tuple(sorted(liked, key=lambda one: (-one.share, one.name))[:MOST_CATEGORIES])


def _words(
    clicks: Sequence[Click], words: TitleWords, often: int, safety: SafetyList
) -> tuple[LikedWord, ...]:
    holding: dict[tuple[str, ...], list[Click]] = defaultdict(list)
    forms: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for click in clicks:
        for term, form in dict(_terms(click.title)).items():
            holding[term].append(click)
            forms[term][form] += 1
    titles = {term: len({click.title for click in found}) for term, found in holding.items()}

    def value(term: tuple[str, ...]) -> float:
        return sum(click.share for click in holding[term]) * sum(map(words.value, term))

    named = [term for term in holding if titles[term] >= often and all(map(words.value, term))]
    ranked = sorted(named, key=lambda term: (-value(term), term))[:_LOOKED_AT]
    safe = safety.is_safe(tf.constant([" ".join(term) for term in ranked], tf.string)).numpy()
    chosen: list[tuple[str, ...]] = []
    stems: set[str] = set()
    for term in compress(ranked, safe):
        of_term = {word.removesuffix("s") for word in term}
        if len(chosen) < MOST_WORDS and not of_term & stems:
            chosen.append(term)
            stems |= of_term
    return tuple(
        LikedWord(forms[term].most_common(1)[0][0], tuple(click.news_id for click in holding[term]))
        for term in chosen
    )


def _terms(title: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Words of a title that may name a topic, and pairs of adjacent ones, each with its spelling."""
    found = list(_WORD.finditer(title))
    for match in found:
        if key := _key(match[0]):
            yield (key,), _POSSESSIVE.sub("", match[0])
    for left, right in pairwise(found):
        keys = _key(left[0]), _key(right[0])
        if all(keys) and title[left.end() : right.start()].isspace() and not _POSSESSIVE.search(left[0]):
            yield keys, f"{left[0]} {_POSSESSIVE.sub('', right[0])}"


def _key(word: str) -> str:
    """The key under which a word is counted, without case and possessive; "" if it cannot name a topic."""
    key = _POSSESSIVE.sub("", word).lower()
    common = key in _COMMON or word.lower() in _COMMON or _CONTRACTION.search(key)
    return "" if len(key) < 2 or common or _NO_SPACES.search(key) else key


def _sentence(
    clicks: int, categories: Sequence[LikedCategory], words: Sequence[LikedWord], often: int
) -> str:
    if not clicks:
        return "Has clicked nothing yet."
    named = _listed([word.text for word in words])
    several = "several of the titles name" if often > 1 else "the titles name"
    if categories:
        counts = [_number(clicks, "click"), *[""] * len(categories)]
        told = [
            f"{_plain(one.name)} ({one.clicks}{of and f' of {of}'}"
            f"{one.mostly and f', mostly {_plain(one.mostly)}'})"
            for one, of in zip(categories, counts, strict=False)
        ]
        return f"Likes {_listed(told)}" + (f"; {several} {named}." if words else ".")
    if words and clicks == 1:
        return f"Has clicked 1 article, whose title names {named}."
    if words:
        return f"Of {clicks} clicked articles {several} {named}."
    have = "shows" if clicks == 1 else "share" if often > 1 else "show"
    return f"Has clicked {_number(clicks, 'article')}, which {have} neither a category nor a telling word."


def _number(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
