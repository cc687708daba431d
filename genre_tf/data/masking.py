"""Masked language modelling: which words are hidden, and what replaces them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MASK_SHARE, KEEP_SHARE = 0.8, 0.1
"""Shares of the chosen tokens that become the mask and that stay as they are; the others become random."""


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        share: share of tokens to hide in each row, special ones not counted.
        mask_id: stands for a hidden token.
        begins_word: bool [vocabulary], whether a token begins a word (a continuing piece does not).
        special: bool [vocabulary], tokens that are neither hidden nor drawn.
    """

    share: float
    mask_id: int
    begins_word: npt.NDArray[np.bool_]
    special: npt.NDArray[np.bool_]

    def places(self, width: int) -> int:
        """The most tokens that are hidden in a row of `width` tokens."""
        return max(1, round(self.share * width))


def mask_words(
    ids: npt.NDArray[np.int32], masking: Masking, random: np.random.Generator
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Hide whole words of one row.

    Words are drawn until the share of tokens is reached; a word that would exceed it is passed over. Each
    token of a drawn word then becomes the mask (80 %) or a random token (10 %), or stays (10 %).

    Args:
        ids: tokens of a row, int32 [n].
        masking: how tokens are hidden.
        random: the generator that draws.

    Returns:
        The ids as the model sees them, int32 [n]; the places to be predicted, int64 [k], ascending.

    Source: Devlin et al. 2019, "BERT", section 3.1 and appendix A.1; whole words as in its later release.
    """
    ordinary = np.flatnonzero(~masking.special[ids])
    if not len(ordinary):
        return ids.copy(), ordinary
    # A piece after a special token always begins a word: a cut text may begin within one.
    begins = masking.begins_word[ids[ordinary]] | (np.diff(ordinary, prepend=-2) > 1)
    words = np.split(ordinary, np.flatnonzero(begins)[1:])
    budget = max(1, round(masking.share * len(ordinary)))
    chosen: list[int] = []
    for word in random.permutation(len(words)).tolist():
        if len(chosen) + len(words[word]) <= budget:
            chosen += words[word].tolist()
        if len(chosen) == budget:
            break
    places = np.asarray(sorted(chosen), np.int64)
    draw = random.random(len(places))
    drawable = np.flatnonzero(~masking.special)
    seen = ids.copy()
    seen[places[draw < MASK_SHARE]] = masking.mask_id
    by_chance = places[draw >= MASK_SHARE + KEEP_SHARE]
    seen[by_chance] = random.choice(drawable, len(by_chance))
    return seen, places
