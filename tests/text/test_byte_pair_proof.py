"""Byte-pair tokens of many strings against the reference, and memory over ever new words.

By default few of each. At full size, 100,000 strings and 1,000,000 distinct words, it prints what it found:

    GENRE_BYTE_PAIR_PROOF=full pytest -s tests/text/test_byte_pair_proof.py
"""

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.text.byte_pair import BytePair

from .conftest import AWKWARD, reference_ids

FULL = os.environ.get("GENRE_BYTE_PAIR_PROOF") == "full"
STRINGS = 100_000 if FULL else 3_000  # half of them real
DISTINCT_WORDS = 1_000_000 if FULL else 100_000
WORDS_AT_A_TIME = 10_000
# A cache of words would hold some 100 bytes of each: key, ids and their places in a table.
MOST_GROWTH = DISTINCT_WORDS * 30 if FULL else 10_000_000


def test_no_string_has_other_ids_than_those_of_the_reference(
    gpt2_vocabulary: Path, mind_sample: Path, characters: list[str]
) -> None:
    tokenizer = BytePair.from_folder(gpt2_vocabulary)
    real = real_strings(mind_sample, STRINGS // 2)
    given = [*(text.encode() for text in real), *random_strings(real, characters, STRINGS - len(real))]
    assert len(set(given)) == STRINGS
    different = []
    for start in range(0, STRINGS, 2_000):
        batch = given[start : start + 2_000]
        ours = tokenizer.encode(tf.constant(batch)).to_list()
        # Bytes that are no text are read as Python reads them; the reference takes text alone.
        theirs = reference_ids(gpt2_vocabulary, [text.decode("utf-8", "replace") for text in batch])
        rows = zip(batch, ours, theirs, strict=True)
        different += [text for text, one, other in rows if one != other]
    print(f"\n{len(given)} strings, {len(real)} of them real: {len(different)} differences")
    assert different == []


def test_memory_does_not_grow_with_the_words_that_were_seen(gpt2_vocabulary: Path) -> None:
    tokenizer = BytePair.from_folder(gpt2_vocabulary)
    calls = DISTINCT_WORDS // WORDS_AT_A_TIME
    resident = []
    for words in itertools.islice(new_words(), calls):
        tokenizer.encode(tf.constant([" ".join(words[at : at + 100]) for at in range(0, len(words), 100)]))
        resident.append(resident_bytes())
    part = max(3, calls // 10)  # the first calls fill the allocator's pools
    growth = np.median(resident[-part:]) - np.median(resident[part : 2 * part])
    print(f"\n{DISTINCT_WORDS} distinct words: {resident[-1] / 1e6:.0f} MB, grown by {growth / 1e6:.1f} MB")
    assert growth < MOST_GROWTH


def real_strings(mind_sample: Path, count: int) -> list[str]:
    """Distinct titles and abstracts of the sample, evenly picked."""
    found: dict[str, None] = {}
    for split in ("train", "dev"):
        for line in (mind_sample / split / "news.tsv").read_text("utf-8").split("\n"):
            found.update(dict.fromkeys(filter(None, line.split("\t")[3:5])))
    texts = list(found)
    return [texts[at * len(texts) // count] for at in range(count)]


def random_strings(real: list[str], characters: list[str], count: int) -> list[bytes]:
    """Distinct strings of three kinds: any characters, pieces of real texts and traps, and any bytes."""
    source = random.Random(11)
    pieces = [piece for text in (*real[:2_000], *AWKWARD) for piece in text.split(" ")] + [
        " ",
        "  ",
        "\n",
        "'",
    ]
    kinds = (
        lambda: "".join(source.choices(characters, k=source.randrange(1, 20))).encode("utf-8", "replace"),
        lambda: " ".join(source.choices(pieces, k=source.randrange(1, 12))).encode(),
        lambda: source.randbytes(source.randrange(1, 24)),
    )
    found: dict[bytes, None] = dict.fromkeys(text.encode() for text in real)
    begun, kind = len(found), itertools.cycle(kinds)
    while len(found) < begun + count:
        found[next(kind)()] = None
    return list(found)[begun:]


def new_words() -> Iterator[list[str]]:
    """Words of eight letters, none of them twice, `WORDS_AT_A_TIME`."""
    letters = np.array(list("etaoinshrdlcumwfgypbvkjx"))  # 24
    number = 0
    while True:
        numbers = (
            np.arange(number, number + WORDS_AT_A_TIME) * 68_718_952_447
        ) % 24**8  # odd, not by 3: a bijection
        places = numbers[:, None] // 24 ** np.arange(8) % 24  # [words, 8]
        yield ["".join(word) for word in letters[places]]
        number += WORDS_AT_A_TIME


def resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("the memory of a process is read from /proc")
    return pages * os.sysconf("SC_PAGE_SIZE")
