"""The effect of BERT's basic tokenizer on each Unicode character, as tables that a graph can gather from."""

import functools
import unicodedata
from dataclasses import dataclass

import numpy as np

# Planes above this hold private use (dropped), and nothing with a case, an accent or a decomposition except
# the tags and variation selectors of plane 14; `bert_characters` treats those by rule.
TABLE_SIZE = 0x30000

WORD, SPACE, ALONE = 0, 1, 2

_MAX_EXPANSION = 4
_CJK_BLOCKS = (
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740),
    range(0x2B740, 0x2B820),
    # Unicode begins this block at 2B820; the fast tokenizer of `transformers`, our reference, begins it here.
    range(0x2B920, 0x2CEB0),
    range(0x2F800, 0x2FA20),
)
# Looked up one by one. The omitted ones are ideographs, which do not change.
_LISTED = (*range(0x3400), *range(0xA000, 0x20000), *range(0x2F800, 0x2FA20))
_WHITE_CONTROLS = frozenset(map(ord, "\t\n\r"))
_ASCII_SYMBOLS = frozenset(map(ord, "$+<=>^`|~"))  # punctuation to BERT, but not to Unicode


@dataclass(frozen=True)
class CharacterTables:
    """Tables over code points below `TABLE_SIZE`.

    Attributes:
        slot: int16 [TABLE_SIZE], row of `expansions`, or 0 for a character that does not change.
        expansions: int32 [slots, 4], what the character becomes, padded with -1; empty if it is dropped.
        kind: int8 [TABLE_SIZE], `WORD`, `SPACE` or `ALONE` (punctuation and CJK, each a separate word).
    """

    slot: np.ndarray
    expansions: np.ndarray
    kind: np.ndarray


@functools.cache
def bert_characters(lowercase: bool, strip_accents: bool) -> CharacterTables:
    """Build the tables of BERT's cleaning, accent stripping (NFD without marks), lower-casing and splitting.

    They are computed from Python's Unicode data, so that they do not depend on the locale or the ICU version
    of the server that runs the graph.

    Source: `BasicTokenizer` of Devlin et al. 2018 (google-research/bert), as implemented in `transformers`.
    """
    slot = np.zeros(TABLE_SIZE, np.int16)
    kind = np.zeros(TABLE_SIZE, np.int8)
    rows: dict[tuple[int, ...], int] = {(-1,): 0}
    for code in _LISTED:
        character = chr(code)
        category = unicodedata.category(character)
        kind[code] = _kind(code, category)
        text = _expansion(character, category, lowercase, strip_accents)
        if text != character:
            slot[code] = rows.setdefault(tuple(map(ord, text)), len(rows))
    for block in _CJK_BLOCKS:
        kind[block.start : block.stop] = ALONE
    expansions = np.full((len(rows), _MAX_EXPANSION), -1, np.int32)
    for expansion, row in rows.items():
        expansions[row, : len(expansion)] = expansion
    return CharacterTables(slot, expansions, kind)


def _kind(code: int, category: str) -> int:
    if category[0] == "Z" or code in _WHITE_CONTROLS:
        return SPACE
    return ALONE if category[0] == "P" or code in _ASCII_SYMBOLS else WORD


def _expansion(character: str, category: str, lowercase: bool, strip_accents: bool) -> str:
    if category[0] == "Z" or ord(character) in _WHITE_CONTROLS:
        return " "
    if character == "\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):
        return ""
    text = character
    if strip_accents:
        if category == "Mn":
            return ""
        if not unicodedata.is_normalized("NFD", text):
            decomposed = unicodedata.normalize("NFD", text)
            text = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
    return "".join(c.lower() for c in text) if lowercase else text
