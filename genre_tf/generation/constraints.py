"""What may not be written (by length, repetition, token ids and words), and words that must be."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

NOTHING = -1  # padding in rows of ids
IMPOSSIBLE = -1e9  # finite, so that a row in which everything is forbidden does not become NaN


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Changes logits before a token is chosen.

    Only written tokens count, not the prompt: a text written from a source must be able to repeat its names.
    """

    min_tokens: int = 1  # before the end
    # Divides positive logits of tokens already written and multiplies negative ones (Keskar et al. 2019).
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0  # no sequence of this many tokens is written twice; 0: no such rule
    forbidden_words: tuple[tuple[int, ...], ...] = ()  # the last token of each is forbidden after the others

    def __post_init__(self) -> None:
        if self.min_tokens < 0 or self.repetition_penalty < 1 or self.no_repeat_ngram < 0:
            raise ValueError(
                f"min_tokens, no_repeat_ngram must be at least 0, repetition_penalty at least 1; got {self}"
            )
        if not all(self.forbidden_words):
            raise ValueError("forbidden_words contains an empty sequence, which would forbid everything")

    @property
    def filler(self) -> int:
        """Minimum number of columns of written tokens that `apply` needs."""
        return max([self.no_repeat_ngram + 1, *map(len, self.forbidden_words)])

    def apply(self, logits: Any, written: Any, step: Any, end_id: int, ban: Any | None = None) -> Any:
        """Lower the logits of tokens that may not come next; arguments as in `Rules.allowed`."""
        if self.repetition_penalty != 1.0:
            logits = _penalise(logits, written, self.repetition_penalty)
        if ban is not None:
            logits = logits + ban
        if self.min_tokens:
            end = tf.one_hot(end_id, logits.shape[-1], on_value=IMPOSSIBLE, off_value=0.0)
            too_early = tf.cast(tf.reshape(step, [-1, 1]) < self.min_tokens, tf.float32)
            logits = logits + too_early * end
        refused = []
        if self.no_repeat_ngram:
            refused.append(_ends_of_repeats(written, self.no_repeat_ngram))
        if self.forbidden_words:
            refused.append(_ends_of_words(written, self.forbidden_words))
        return _forbid(logits, tf.concat(refused, axis=1)) if refused else logits


@dataclass(frozen=True)
class Rules:
    """All rules for the rows of a batch; a rule that is None costs nothing."""

    end_id: int  # the token that ends a text
    constraints: Constraints
    limits: Any  # int32 [rows], maximum number of tokens in a row
    ban: Any | None = None  # float32 [rows, vocabulary], from `banned`
    required: Any | None = None  # int32 [rows, words, longest], words that must be written, then NOTHING

    @property
    def filler(self) -> int:
        """Number of NOTHING columns needed before the written tokens."""
        return max(self.constraints.filler, 0 if self.required is None else self.required.shape[2])

    def allowed(self, logits: Any, written: Any, step: Any, rows: Any | None = None) -> Any:
        """Logits under all rules.

        Args:
            logits: float32 [n, vocabulary].
            written: int32 [n, columns], newest last.
            step: int32 [] or [n], number of written tokens.
            rows: int32 [n], the row that each belongs to; by default each is its own row.
        """
        shape = logits.shape
        logits = self.constraints.apply(logits, written, step, self.end_id, of_rows(self.ban, rows))
        if self.required is not None:
            lack = missing(of_rows(self.required, rows), written)
            logits = force(logits, lack, of_rows(self.limits, rows) - step, self.end_id)
        return tf.ensure_shape(logits, shape)  # conditions of unknown rank lose the static shape


def of_rows(values: Any | None, rows: Any | None) -> Any:
    """Values of the rows that many others belong to; None: each is its own row."""
    return values if values is None or rows is None else tf.gather(values, rows)


def banned(ids: Any, vocabulary: int) -> Any:
    """Added to logits, it forbids some ids: int32 [rows, f], padded with NOTHING -> [rows, vocabulary]."""
    return _forbid(tf.zeros([tf.shape(ids)[0], vocabulary]), ids)


def _positions(ids: Any) -> Any:
    rows = tf.repeat(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids)[1], axis=1)
    return tf.stack([rows, tf.maximum(ids, 0)], axis=-1)  # [rows, n, 2]


def _penalise(logits: Any, written: Any, penalty: float) -> Any:
    value = tf.gather(logits, tf.maximum(written, 0), batch_dims=1)  # [rows, written]
    lowered = tf.where(value > 0, value / penalty, value * penalty)
    lowered = tf.where(written >= 0, lowered, float("inf"))
    return tf.tensor_scatter_nd_min(logits, _positions(written), tf.maximum(lowered, IMPOSSIBLE))


def _forbid(logits: Any, ids: Any) -> Any:
    ceiling = tf.where(ids >= 0, IMPOSSIBLE, float("inf"))
    return tf.tensor_scatter_nd_min(logits, _positions(ids), ceiling)


def _ends_of_repeats(written: Any, size: int) -> Any:
    """Tokens that would complete a sequence written before: int32 [rows, windows], NOTHING elsewhere."""
    windows = tf.shape(written)[1] - size + 1
    matches = tf.ones_like(written[:, :windows], tf.bool)
    for offset in range(size - 1):
        earlier = written[:, offset : offset + windows]
        latest = written[:, windows + offset][:, None]
        matches &= (earlier == latest) & (earlier >= 0)
    return tf.where(matches, written[:, size - 1 :], NOTHING)


def _ends_of_words(written: Any, words: tuple[tuple[int, ...], ...]) -> Any:
    """Last tokens of words whose other tokens were just written: int32 [rows, words], NOTHING elsewhere."""
    before = max(map(len, words)) - 1
    # shorter words have NOTHING in front, which matches anything
    heads = np.array([(NOTHING,) * (before + 1 - len(word)) + word[:-1] for word in words], np.int32)
    last = tf.constant([word[-1] for word in words])
    newest = written[:, tf.shape(written)[1] - before :]
    matches = tf.reduce_all((newest[:, None] == heads) | (heads == NOTHING), axis=2)  # [rows, words]
    return tf.where(matches, last, NOTHING)


class Missing(NamedTuple):
    """The words that a text still lacks."""

    # int32 [rows], tokens that the missing words take. A word that has been begun counts in full: any other
    # token would interrupt it.
    needed: Any
    next_id: Any  # int32 [rows], of the word with the most tokens written, else of the first missing one


def missing(words: Any, written: Any) -> Missing:
    """Find the missing ones of int32 [rows, words, longest]; `written` has at least `longest` columns."""
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
    """Make the end impossible while words are missing, and all else once only they fit.

    `left`, int32 [rows], is how many tokens a row may still write; logits as in `Rules.allowed`.
    """
    vocabulary = logits.shape[-1]
    end = tf.one_hot(end_id, vocabulary, on_value=IMPOSSIBLE, off_value=float("inf"))
    logits = tf.where((lack.needed > 0)[:, None], tf.minimum(logits, end), logits)
    # Even if another rule forbids it; a beam still needs its logit.
    next_one = tf.one_hot(lack.next_id, vocabulary, on_value=True, off_value=False)
    only = tf.where(next_one, tf.maximum(logits, IMPOSSIBLE / 2), IMPOSSIBLE)
    return tf.where(((lack.needed > 0) & (left <= lack.needed))[:, None], only, logits)
