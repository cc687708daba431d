"""Which words of a written text come from its source, and which of its claims do not."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from genre_tf.text.words import WORD


class SourceSpan(NamedTuple):
    """A run of words in both texts, and its first and last character position in each."""

    words: int
    text: tuple[int, int]
    source: tuple[int, int]


def source_spans(text: str, source: str, least_words: int = 2) -> list[SourceSpan]:
    """Find the longest common runs of words, longest first; no word of the text is in two of them.

    Case, punctuation and full-width forms are ignored.

    Returns:
        Spans in the order of the text; if a run occurs several times in the source, the first one is given.

    Source: Wise, "String Similarity via Greedy String Tiling and Running Karp-Rabin Matching", 1993; without
    its hashing, because a headline is short; words of the source may be used twice.
    """
    (ours, places), (theirs, their_places) = _words(text), _words(source)
    runs = _longest_runs(ours, theirs)
    taken = [False] * len(ours)
    spans = []
    # A run that was cut where a longer one begins may still be the longest of the remaining runs.
    open_runs = {begin: run for begin, run in enumerate(runs) if run[0] >= max(1, least_words)}
    while open_runs:
        begin = max(open_runs, key=lambda at: (open_runs[at][0], -at))
        length, there = open_runs.pop(begin)
        free = next((n for n in range(length) if taken[begin + n]), length)
        if free < length:
            if free >= max(1, least_words):
                open_runs[begin] = (free, there)
            continue
        taken[begin : begin + length] = [True] * length
        here, other = places[begin : begin + length], their_places[there : there + length]
        spans.append(SourceSpan(length, (here[0][0], here[-1][1]), (other[0][0], other[-1][1])))
    return sorted(spans, key=lambda span: span.text)


def share_from_source(text: str, spans: Sequence[SourceSpan]) -> float:
    """Share of the text's words that are in the spans; 0 for a text without words."""
    words = len(WORD.findall(text))
    return sum(span.words for span in spans) / words if words else 0.0


def marked(text: str, unsupported: str) -> list[tuple[str, bool]]:
    """Split a text into pieces.

    A claim is stored without the thousands separators of its numbers, the points of U.S. and the case of its
    quotes; it is searched in the same form. A claim that is not found stays unmarked.

    Returns:
        Pieces that join to the text, and whether each one is an unsupported claim.
    """
    claims = sorted({claim for claim in unsupported.split("\n") if claim.strip()}, key=len, reverse=True)
    if not claims:
        return [(text, False)]

    def of_word(word: str) -> str:
        if word.isdigit():
            return r"[,'’ \u00a0\u2009\u202f]?".join(word)
        if word == "USA":
            return r"(?:U\.?S\.?A?\.?)"
        if word.isupper() and 1 < len(word) <= 4:
            return r"\.?".join(map(re.escape, word))
        return re.escape(word)

    def pattern(claim: str) -> str:
        # Not inside a longer word; Chinese has no spaces, so its characters have no such boundary.
        before = r"(?<![^\W_])" if claim[0].isascii() else ""
        after = r"(?![^\W_])" if claim[-1].isascii() else ""
        # A claim in a script without spaces, "北 京", appears as "北京" in the text.
        between = r"\W+" if claim.isascii() else r"\W*"
        return before + between.join(map(of_word, claim.split())) + after

    pieces = re.split(f"({'|'.join(map(pattern, claims))})", text, flags=re.IGNORECASE)
    return [(piece, place % 2 == 1) for place, piece in enumerate(pieces) if piece]


def _words(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Folded words, and their first and last character positions."""
    found = list(WORD.finditer(text))
    folded = [unicodedata.normalize("NFKC", each[0]).casefold() for each in found]
    return folded, [each.span() for each in found]


def _longest_runs(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """For each word of ours, the longest run that begins there: its length, and where it begins in theirs."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, word in enumerate(theirs):
        places[word].append(place)
    runs = [(0, 0)] * len(ours)
    after: dict[int, int] = {}  # length of the run that begins at each of their words and at our next word
    for at in range(len(ours) - 1, -1, -1):
        after = {place: 1 + after.get(place + 1, 0) for place in places.get(ours[at], ())}
        if after:
            place = max(after, key=lambda place: (after[place], -place))
            runs[at] = (after[place], place)
    return runs
