"""What of a reader's titles and of a long source matters most, by shared words, in the graph.

Source: Salemi et al., "LaMP: When Large Language Models Meet Personalization", 2023, section 3: of all that
is known of a reader, what is nearest to the input; here by words that both have, the rarer the better.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from genre_tf.generation.grounding import FUNCTION_WORDS, folded

MOST_WEIGHTS = 10_000  # of the most frequent words; a rarer one weighs as much as the rarest
_COUNTED_AT_ONCE = 10_000
_SPLIT = "\x1f"  # no text has this control character
# Behind a mark that ends a sentence and what closes it; Chinese and Japanese write no space there.
_SENTENCE_ENDS = (
    (r"([.!?]['\"”’)]*)(\s)", rf"\1{_SPLIT}\2"),
    (r"([。！？][”’」』]*)", rf"\1{_SPLIT}"),
    ("\n", f"{_SPLIT}\n"),
)


def words_of(texts: Any) -> Any:
    """Words in lower case, without punctuation: string [n] -> ragged string [n, words].

    In scripts without spaces, characters count as words.
    """
    texts = tf.strings.lower(folded(texts), encoding="utf-8")
    texts = tf.strings.regex_replace(texts, r"([\p{Han}\p{Hiragana}\p{Katakana}])", r" \1 ")
    return tf.strings.split(tf.strings.regex_replace(texts, r"[^\p{L}\p{M}\p{N}\s]+", ""))


def word_weights(texts: Iterable[str]) -> dict[str, float]:
    """The weight of frequent words: the logarithm of the number of texts for each text that has the word.

    The weight of all other words is under "".
    """
    counts: Counter[bytes] = Counter()
    rows = list(texts)
    for start in range(0, len(rows), _COUNTED_AT_ONCE):
        words = words_of(tf.constant(rows[start : start + _COUNTED_AT_ONCE]))
        counts.update(itertools.chain.from_iterable(map(set, words.to_list())))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WEIGHTS]
    weights = {word.decode(): round(math.log(len(rows) / counts[word]), 2) for word in frequent}
    return {"": max(weights.values(), default=1.0), **weights}


def sentences_of(texts: Any) -> Any:
    """Pieces of texts that end with a sentence or a line: string [n] -> ragged string [n, sentences].

    Together they are the text; a text has at least one.
    """
    for pattern, rewrite in _SENTENCE_ENDS:
        texts = tf.strings.regex_replace(texts, pattern, rewrite)
    return tf.strings.split(texts, _SPLIT)


def best_first(scores: Any) -> Any:
    """Places of the columns of each row, best first, of equal ones the first: [n, m] -> int32 [n, m]."""
    return tf.argsort(scores, axis=1, direction="DESCENDING", stable=True)


class Relevance(tf.Module):
    """How much texts have to do with a query: shared words, weighted by how rarely articles have them.

    Without weights, function words weigh nothing and all others the same.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        known = dict(weights or dict.fromkeys(FUNCTION_WORDS, 0.0))
        rare = known.pop("", 1.0)
        keys, values = tf.constant(list(known), tf.string), tf.constant(list(known.values()), tf.float32)
        self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), rare)

    def __call__(self, texts: Any, query: Any) -> Any:
        """Relevance of texts, string [batch, n], to queries, string [batch]: float32 [batch, n], 0 for none.

        The squared weights of shared words, divided by the length of the text's vector of weights: the cosine
        of the two, except for the length of the query, which all texts of a row share.
        """
        batch, columns = tf.unstack(tf.shape(texts))
        words, asked = words_of(tf.reshape(texts, [-1])), words_of(query)
        text_of_word = words.value_rowids()
        row_of_word = text_of_word // tf.cast(tf.maximum(columns, 1), tf.int64)
        ours = _in_row(words.values, row_of_word)
        theirs = _in_row(asked.values, asked.value_rowids())
        _, number = tf.unique(tf.concat([theirs, ours], 0))
        # The same word of the same row has the same number: it is shared if a word of the query has it.
        asked_numbers, our_numbers = number[: tf.size(theirs)], number[tf.size(theirs) :]
        known = tf.math.unsorted_segment_max(
            tf.ones_like(asked_numbers), asked_numbers, tf.reduce_max(tf.concat([number, [0]], 0)) + 1
        )
        shared = tf.gather(known, our_numbers) == 1
        square = self._table.lookup(words.values) ** 2
        both, own = (
            tf.math.segment_sum(values, text_of_word) for values in (tf.where(shared, square, 0.0), square)
        )
        missing = batch * columns - tf.size(own)  # the last texts, if they have no words
        score = tf.pad(both * tf.math.rsqrt(tf.maximum(own, 1e-6)), [[0, missing]])
        return tf.reshape(score, [batch, columns])


def _in_row(words: Any, rows: Any) -> Any:
    """Fingerprints of words that differ from row to row."""
    return tf.strings.to_hash_bucket_fast(tf.strings.join([tf.strings.as_string(rows), words], " "), 2**62)
