"""What BERT's basic tokenizer does to each Unicode character, as tables that a graph can gather from."""

import functools
import unicodedata
from dataclasses import dataclass

import numpy as np

# Planes above hold private use (dropped), and nothing that has a case, an accent or a decomposition
# besides the tags and variation selectors of plane 14; `bert_characters` treats those by rule.
TABLE_SIZE = 0x30000

WORD, SPACE, ALONE = 0, 1, 2

_MAX_EXPANSION = 4
_CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    # Unicode begins this block at 2B820; the fast tokenizer of `transformers` here, and it is the reference.
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True)
class CharacterTables:
    """Tables over code points below `TABLE_SIZE`.

    Attributes:
        slot: int16 [TABLE_SIZE], row of `expansions`, or 0 for a character that stays as it is.
        expansions: int32 [slots, 4], what the character turns into, padded with -1; empty if it is dropped.
        kind: int8 [TABLE_SIZE], `WORD`, `SPACE` or `ALONE` (punctuation and CJK, each a word by itself).
    """

    slot: np.ndarray
    expansions: np.ndarray
    kind: np.ndarray


@functools.cache
def bert_characters(lowercase: bool, strip_accents: bool) -> CharacterTables:
    """The tables of BERT's cleaning, accent stripping, lower-casing and splitting.

    Args:
        lowercase: whether characters are lower-cased.
        strip_accents: whether characters are decomposed (NFD) and their marks dropped.

    Returns:
        Tables computed from Python's Unicode data, so that they do not depend on the locale or the ICU
        version of the server that runs the graph.

    Source: `BasicTokenizer` of Devlin et al. 2018 (google-research/bert), as `transformers` runs it.
    """
    slot = np.zeros(TABLE_SIZE, np.int16)
    kind = np.zeros(TABLE_SIZE, np.int8)
    rows: dict[tuple[int, ...], int] = {(-1,): 0}
    for code in range(TABLE_SIZE):
        character = chr(code)
        category = unicodedata.category(character)
        kind[code] = _kind(code, category)
        expansion = _expansion(character, category, lowercase, strip_accents)
        if expansion != (code,):
            slot[code] = rows.setdefault(expansion, len(rows))
    expansions = np.full((len(rows), _MAX_EXPANSION), -1, np.int32)
    for expansion, row in rows.items():
        expansions[row, : len(expansion)] = expansion
    return CharacterTables(slot, expansions, kind)


def _kind(code: int, category: str) -> int:
    if category.startswith("Z") or chr(code) in "\t\n\r":
        return SPACE
    ascii_punctuation = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    if ascii_punctuation or category.startswith("P"):
        return ALONE
    return ALONE if any(first <= code <= last for first, last in _CJK_BLOCKS) else WORD


def _expansion(character: str, category: str, lowercase: bool, strip_accents: bool) -> tuple[int, ...]:
    if character in "\t\n\r" or category.startswith("Z"):
        return (0x20,)
    if character == "\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):
        return ()
    text = character
    if strip_accents:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    if lowercase:
        text = "".join(c.lower() for c in text)
    return tuple(map(ord, text))
