"""Positions of unsupported claims in a written text."""

import re


def marked(text: str, unsupported: str) -> list[tuple[str, bool]]:
    """Split a text into pieces.

    A claim is stored without the thousands separators of its numbers, the points of U.S. and the case of its
    quotes; it is searched in the same form. A claim that is not found stays unmarked.

    Args:
        text: the written text.
        unsupported: claims, one per line, from `Grounding.unsupported`.

    Returns:
        Pieces that join to the text, and whether each one is an unsupported claim.
    """
    claims = sorted({claim for claim in unsupported.split("\n") if claim.strip()}, key=len, reverse=True)
    if not claims:
        return [(text, False)]
    pattern = re.compile("|".join(_pattern(claim) for claim in claims), re.IGNORECASE)
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in pattern.finditer(text):
        pieces += [(text[end : match.start()], False), (match.group(), True)]
        end = match.end()
    pieces.append((text[end:], False))
    return [(piece, claim) for piece, claim in pieces if piece]


def _pattern(claim: str) -> str:
    words = [_of_word(word) for word in claim.split()]
    # Not inside a longer word; Chinese has no spaces, so its characters have no such boundary.
    before = r"(?<![^\W_])" if claim[0].isascii() else ""
    after = r"(?![^\W_])" if claim[-1].isascii() else ""
    # A claim in a script without spaces, "北 京", appears as "北京" in the text.
    between = r"\W+" if claim.isascii() else r"\W*"
    return before + between.join(words) + after


def _of_word(word: str) -> str:
    if word.isdigit():
        return r"[,'’ \u00a0\u2009\u202f]?".join(word)
    if word == "USA":
        return r"(?:U\.?S\.?A?\.?)"
    if word.isupper() and 1 < len(word) <= 4:
        return r"\.?".join(map(re.escape, word))
    return re.escape(word)
