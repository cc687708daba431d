"""What may not be written: lengths, repetitions, forbidden ids."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from genre_tf.generation.sampling import IMPOSSIBLE

NOTHING = -1  # fills a row of ids where there is none


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Changes logits before a token is chosen.

    Only what was written counts, not the prompt: a text made from a source has to repeat its names.

    Args:
        min_tokens: the end may not come before so many tokens.
        repetition_penalty: positive logits of tokens already written are divided by it, negative ones
            multiplied (Keskar et al. 2019); 1.0: none.
        no_repeat_ngram: no run of so many tokens is written twice; 0: no such rule.
    """

    min_tokens: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        if self.min_tokens < 0 or self.repetition_penalty < 1 or self.no_repeat_ngram < 0:
            raise ValueError(f"min_tokens and no_repeat_ngram from 0, repetition_penalty from 1, got {self}")

    def apply(self, logits: Any, written: Any, step: Any, end_id: int, forbidden: Any) -> Any:
        """Lower what may not come next.

        Args:
            logits: float32 [rows, vocabulary].
            written: int32 [rows, filler + step], the tokens so far behind at least `no_repeat_ngram` fillers
                (NOTHING).
            step: int32 [], how many tokens each row has.
            end_id: the token that ends a text.
            forbidden: int32 [rows, f], ids that may never come; NOTHING fills up.

        Returns:
            float32 [rows, vocabulary], finite.
        """
        if self.repetition_penalty != 1.0:
            logits = _penalise(logits, written, self.repetition_penalty)
        end = tf.fill(tf.shape(written[:, :1]), tf.where(step < self.min_tokens, end_id, NOTHING))
        banned = [forbidden, end]
        if self.no_repeat_ngram:
            banned.append(_ends_of_repeats(written, self.no_repeat_ngram))
        return _forbid(logits, tf.concat(banned, axis=1))


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
    """Tokens that would complete a run written before: int32 [rows, windows], NOTHING elsewhere."""
    windows = tf.shape(written)[1] - size + 1
    matches = tf.ones_like(written[:, :windows], tf.bool)
    for offset in range(size - 1):
        earlier = written[:, offset : offset + windows]
        latest = written[:, windows + offset][:, None]
        matches &= (earlier == latest) & (earlier >= 0)
    return tf.where(matches, written[:, size - 1 :], NOTHING)
