"""How much of a text stands in what it was written from: names, numbers and quotes, in the graph."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

_FUNCTION_WORDS = """
a about after again against all also an and any are as at back be because been before being best big but
by can could day did do does down during each end even ever every few find first for from get gets go goes
good had has have he her here hers him his how i if in into is it its just know last latest less like look
make makes man many may me might more most must my need never new next no not now of off old on one only
or other our out over own people plan plans put right said same say says see set she should show since so
some still such take takes than that the their them then there these they thing things this those through
time to today too top two under until up us use very want was way we week well were what when where which
while who whose why will with woman world would year years yet you your
"""
FUNCTION_WORDS = tuple(_FUNCTION_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+")


def common_words(texts: Iterable[str], least: int = 2) -> list[str]:
    """Words that a corpus writes with a small letter: no names, even where a headline capitalises them.

    Args:
        texts: running text rather than headlines, such as abstracts.
        least: a word must have been seen so often with a small letter, and as often as with a capital.

    Returns:
        Sorted, lower case, with FUNCTION_WORDS.
    """
    small: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for text in texts:
        for word in _WORD.findall(text):
            (small if word == word.lower() else capital)[word.lower()] += 1
    common = {word for word, count in small.items() if count >= least and count >= capital[word]}
    return sorted(common.union(FUNCTION_WORDS))


class Grounding(tf.Module):
    """Share of a text's claims that stand in the evidence.

    A claim is a name (a capitalised word that is no common word), a number, or two neighbouring words of a
    quote. It stands in the evidence if the same word (or pair of neighbours) does, whatever its case;
    thousands separators, currency signs and the possessive are left aside. A text without a claim is wholly
    grounded.

    Args:
        common: words that are no names, lower case; see `common_words`.
    """

    def __init__(self, common: Sequence[str] = FUNCTION_WORDS) -> None:
        super().__init__()
        words = tf.constant(sorted(set(common)), tf.string)
        initializer = tf.lookup.KeyValueTensorInitializer(words, tf.ones_like(words, tf.int32))
        self.common = tf.lookup.StaticHashTable(initializer, default_value=0)

    def __call__(self, texts: Any, evidence: Any) -> Any:
        """Score texts.

        Args:
            texts: string [batch, n], UTF-8.
            evidence: string [batch], UTF-8; the source, or the reader's titles where there is no source.

        Returns:
            float32 [batch, n] from 0 to 1.
        """
        shape = tf.shape(texts)
        known = _words(evidence)
        flat = tf.reshape(texts, [-1])  # [batch * n]
        words = _words(flat).to_tensor()
        named = tf.strings.regex_full_match(words, r"\p{Lu}[\p{L}\p{N}]+|.*\p{N}.*")
        claimed = named & (self.common.lookup(_lower(words)) == 0)  # [batch * n, words]
        pairs = _quoted_pairs(flat).to_tensor()
        total = [claimed, pairs != ""]
        found = [_stands_in(words, known, shape), _stands_in(pairs, _pairs(known), shape)]
        claims = tf.add_n([_count(part) for part in total])
        supported = tf.add_n([_count(part & hit) for part, hit in zip(total, found, strict=True)])
        return tf.reshape(tf.where(claims > 0, supported / tf.maximum(claims, 1.0), 1.0), shape)


def _words(text: Any) -> Any:
    """Words and numbers, their case kept: string [n] -> ragged [n, words]."""
    text = tf.strings.regex_replace(text, r"['’]s\b", "")
    text = tf.strings.regex_replace(text, r"(\d),(\d)", r"\1\2")
    text = tf.strings.regex_replace(text, r"[^\p{L}\p{N}.]+", " ")
    text = tf.strings.regex_replace(text, r"\.($|[^0-9])", r" \1")  # a point stays within numbers alone
    return tf.strings.split(text)


def _lower(words: Any) -> Any:
    return tf.strings.lower(words, encoding="utf-8")


def _pairs(words: Any) -> Any:
    """Neighbouring words, lower case: ragged [n, words] -> ragged [n, words - 1]."""
    first, second = _lower(words[:, :-1].flat_values), _lower(words[:, 1:].flat_values)
    return words[:, 1:].with_flat_values(tf.strings.join([first, second], separator=" "))


def _quoted_pairs(text: Any) -> Any:
    """Neighbouring words within quotes: string [n] -> ragged [n, pairs]."""
    text = tf.strings.regex_replace(text, "[“”«»]", '"')
    text = tf.strings.regex_replace(text, r"(^|[\s(])['‘]([^'’]+)['’]($|[\s).,;:!?])", r'\1"\2"\3')
    parts = tf.strings.split(text, '"')  # ragged [n, parts]: every second one is a quote
    odd = tf.ragged.range(parts.row_lengths()) % 2 == 1
    quotes = tf.ragged.boolean_mask(parts, odd)
    pairs = _pairs(_words(quotes.flat_values))  # ragged [all quotes, pairs]
    text_of_pair = tf.gather(quotes.value_rowids(), pairs.value_rowids())
    ragged: Any = tf.RaggedTensor
    return ragged.from_value_rowids(pairs.flat_values, text_of_pair, quotes.nrows())


def _stands_in(claims: Any, known: Any, shape: Any) -> Any:
    """Whether each claim is among its row's known ones: string [batch * n, claims] -> bool, same shape."""
    ours = tf.reshape(_fingerprint(claims), [shape[0], -1, 1])  # [batch, n * claims, 1]
    theirs = _fingerprint(known.to_tensor())[:, None, :]  # [batch, 1, known]
    return tf.reshape(tf.reduce_any(ours == theirs, axis=-1), tf.shape(claims))


def _fingerprint(words: Any) -> Any:
    return tf.strings.to_hash_bucket_fast(_lower(words), 2**62)  # numbers compare faster than strings


def _count(flags: Any) -> Any:
    return tf.reduce_sum(tf.cast(flags, tf.float32), axis=-1)
