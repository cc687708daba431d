"""Required words: token sequences without which a text may not end."""

from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.generation.sampling import IMPOSSIBLE


class Missing(NamedTuple):
    """The words that a text still lacks.

    Args:
        needed: int32 [rows], number of tokens that the missing words take. A word that has been begun counts
            in full: any other token would interrupt it.
        next_id: int32 [rows], next token of the word with the most tokens written, else of the first missing
            word.
    """

    needed: Any
    next_id: Any


def missing(words: Any, written: Any) -> Missing:
    """Find the words that are still missing.

    Args:
        words: int32 [rows, words, longest], each padded with negative ids.
        written: int32 [rows, columns], newest last, at least `longest` columns; negative for no token.
    """
    longest = words.shape[2]
    behind = tf.pad(written, [[0, 0], [0, longest - 1]], constant_values=-1)
    starts = tf.range(tf.shape(written)[1])[:, None] + tf.range(longest)
    windows = tf.gather(behind, starts, axis=1)[:, None]  # [rows, 1, columns, longest]
    wanted = words[:, :, None]  # [rows, words, 1, longest]
    there = tf.reduce_any(tf.reduce_all((windows == wanted) | (wanted < 0), axis=3), axis=2)
    length = tf.reduce_sum(tf.cast(words >= 0, tf.int32), axis=2)  # [rows, words]
    begun = tf.zeros_like(length)
    for count in range(1, longest):
        equal = tf.reduce_all(written[:, None, -count:] == words[:, :, :count], axis=2)
        begun = tf.where(equal & (count < length) & ~there, count, begun)
    lacking = tf.where(there, 0, length)
    word = tf.argmax(tf.where(there, -1, begun), axis=1, output_type=tf.int32)
    furthest = tf.reduce_max(begun, axis=1)
    next_id = tf.gather(tf.gather(words, word, batch_dims=1), furthest, batch_dims=1)
    return Missing(tf.reduce_sum(lacking, axis=1), next_id)


def force(logits: Any, lack: Missing, left: Any, end_id: int) -> Any:
    """Keep a text open for its missing words, and force them when there is only room for them.

    Args:
        logits: float32 [rows, vocabulary].
        lack: result of `missing`.
        left: int32 [rows], number of tokens that a row may still write.
        end_id: the token that ends a text.

    Returns:
        float32 [rows, vocabulary]: the end is impossible while a word is missing; once the missing words fill
        all remaining tokens, everything else is impossible too.
    """
    vocabulary = logits.shape[-1]
    end = tf.one_hot(end_id, vocabulary, on_value=IMPOSSIBLE, off_value=float("inf"))
    logits = tf.where((lack.needed > 0)[:, None], tf.minimum(logits, end), logits)
    # Even if another rule forbids it; a beam still needs its logit.
    next_one = tf.one_hot(lack.next_id, vocabulary, on_value=True, off_value=False)
    only = tf.where(next_one, tf.maximum(logits, IMPOSSIBLE / 2), IMPOSSIBLE)
    return tf.where(((lack.needed > 0) & (left <= lack.needed))[:, None], only, logits)
