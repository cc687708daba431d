"""Where in a written text the claims stand that its source does not support."""

import re


def marked(text: str, unsupported: str) -> list[tuple[str, bool]]:
    """Cut a text into pieces.

    A claim is compared without the thousands separators of its numbers, the points of U.S. and the case of
    its quotes; it is looked for the same way. What cannot be found again stays unmarked.

    Args:
        text: as written.
        unsupported: claims, a line each, as `Grounding.unsupported` names them.

    Returns:
        Pieces that join to the text, and whether each is an unsupported claim.
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
    # Not within a longer word; Chinese has no spaces, so its signs have no such border.
    before = r"(?<![^\W_])" if claim[0].isascii() else ""
    after = r"(?![^\W_])" if claim[-1].isascii() else ""
    # A claim of words that are written without spaces, "北 京", stands as "北京" in the text.
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
