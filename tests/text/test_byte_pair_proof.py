"""Byte-pair tokens of many strings against the reference, and memory over ever new words.

By default few of each. At full size, 100,000 strings and 1,000,000 distinct words, it prints what it found:

    GENRE_BYTE_PAIR_PROOF=full pytest -s tests/text/test_byte_pair_proof.py
"""

import ctypes
import itertools
import os
import random
from collections.abc import Callable, Iterator
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
MOST_BYTES_OF_WORD = (
    10  # a cache holds some 50 bytes of each at the least: key, tokens, their place in a table
)


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
    growth = growth_of(lambda words: tokenizer.encode(tf.constant(words)))
    print(f"\n{DISTINCT_WORDS} distinct words: {growth / DISTINCT_WORDS:.2f} bytes more in use for each")
    assert growth < MOST_BYTES_OF_WORD * DISTINCT_WORDS


def test_a_cache_of_words_would_be_seen_in_memory() -> None:
    cache = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, "")  # as KerasHub's tokenizer has

    def insert(words: list[str]) -> None:
        tokens = [" ".join(word) for word in words]
        cache.insert(tf.strings.to_hash_bucket_fast(words, 2**62), tf.constant(tokens))

    assert growth_of(insert) > MOST_BYTES_OF_WORD * DISTINCT_WORDS


def growth_of(read: Callable[[list[str]], object]) -> int:
    """By how many bytes in use the process grows while ever new words are read, but for the first ones."""
    calls = DISTINCT_WORDS // WORDS_AT_A_TIME
    in_use = []
    for words in itertools.islice(new_words(), calls):
        read(words)
        in_use.append(bytes_in_use())
    return in_use[-1] - in_use[calls // 10]


class _MallocInfo(ctypes.Structure):
    _names = (
        "arena",
        "ordblks",
        "smblks",
        "hblks",
        "hblkhd",
        "usmblks",
        "fsmblks",
        "uordblks",
        "fordblks",
        "top",
    )
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def bytes_in_use() -> int:
    """What all native code holds; pages that the allocator keeps for later do not count."""
    try:
        read = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("memory in use is read from glibc's allocator (2.33 or newer)")
    read.restype = _MallocInfo
    found = read()
    return found.uordblks + found.hblkhd


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
