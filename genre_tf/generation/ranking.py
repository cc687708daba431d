"""The order of the written texts."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from genre_tf.generation.grounding import folded


class Written(NamedTuple):
    """Texts for a batch of readers, each column a candidate."""

    text: Any  # string [batch, n], UTF-8
    interest: Any  # float32 [batch, n], click probability for this reader according to the click model
    log_probability: Any  # float32 [batch, n], according to the language model, mean per token
    grounding: Any  # float32 [batch, n], share of the claims that the evidence supports
    safe: Any  # bool [batch, n]
    unsupported: Any  # string [batch, n], the other claims, joined by line breaks; for reports, not served

    def served(self) -> dict[str, Any]:
        """What a server answers, by name."""
        return {name: column for name, column in self._asdict().items() if name != "unsupported"}


@dataclass(frozen=True, kw_only=True)
class RankingWeights:
    """The value of a text: a weighted sum."""

    # Of the log odds of a click, because click probabilities are small: they differ by hundredths when one
    # text is clicked twice as often as another.
    interest: float = 1.0
    # Of the grounded share: a completely invented text comes after a grounded one unless its odds of a click
    # are 1.6 times better.
    grounding: float = 0.5
    log_probability: float = (
        0.05  # per nat per token; small, so that it only decides between similar interests
    )
    # Shared part of the distinct words of two texts (Jaccard index) from which the worse one counts as a
    # repetition: two words changed in a title of eight.
    near_duplicate: float = 0.6


def rank(written: Written, weights: RankingWeights, read: Any | None = None) -> Written:
    """Sort each row, best first; numbers that were not finite become 0.

    Unsafe texts come last, whatever their value; before them empty texts; before those repetitions: texts
    that are almost the same as a better one in front, or as a title that the reader has already `read`,
    string [batch, m]. Within each of these groups, better texts come first.
    """
    scores = {name: getattr(written, name) for name in ("interest", "log_probability", "grounding")}
    written = written._replace(
        **{name: tf.where(tf.math.is_finite(score), score, 0.0) for name, score in scores.items()}
    )
    probability = tf.clip_by_value(written.interest, 1e-6, 1.0 - 1e-6)
    value = (
        weights.interest * (tf.math.log(probability) - tf.math.log1p(-probability))
        + weights.grounding * written.grounding
        + weights.log_probability * written.log_probability
    )
    # Safe texts first, so that none of them counts as the repetition of a text that may not be shown.
    said = tf.strings.regex_full_match(written.text, r"(?s).*[\p{L}\p{N}].*")
    worse_kind = tf.where(written.safe, tf.where(said, 0, 1), 2)
    written, worse_kind = _sorted(written, worse_kind, tf.argsort(value, 1, "DESCENDING", stable=True))
    written, worse_kind = _sorted(written, worse_kind, tf.argsort(worse_kind, 1, stable=True))
    repeated = _repeated(_alike(written.text, written.text, weights.near_duplicate))
    if read is not None:
        repeated |= tf.reduce_any(_alike(written.text, read, weights.near_duplicate), axis=2)
    repeated &= worse_kind == 0
    place = 2 * worse_kind + tf.cast(repeated, tf.int32)  # 0 good, 1 repeated, 2 empty, 4 unsafe
    return _sorted(written, place, tf.argsort(place, 1, stable=True))[0]


def _sorted(written: Written, kind: Any, order: Any) -> tuple[Written, Any]:
    columns = [tf.gather(column, order, batch_dims=1) for column in (*written, kind)]
    return Written(*columns[:-1]), columns[-1]


def _words(text: Any) -> Any:
    """Fingerprints of the words of texts, string [batch, n] -> int64 [batch, n, words], padded with -1.

    Case and punctuation are ignored; in scripts without spaces, characters count as words.
    """
    text = tf.strings.lower(folded(text), encoding="utf-8")
    text = tf.strings.regex_replace(text, r"([\p{Han}\p{Hiragana}\p{Katakana}])", r" \1 ")
    text = tf.strings.regex_replace(text, r"[^\p{L}\p{M}\p{N}\s]+", "")
    words = tf.strings.split(tf.reshape(text, [-1]))
    numbers = words.with_values(tf.strings.to_hash_bucket_fast(words.values, 2**62)).to_tensor(-1)
    return tf.reshape(numbers, tf.concat([tf.shape(text), tf.shape(numbers)[1:]], 0))


def _alike(texts: Any, others: Any, near_duplicate: float) -> Any:
    """Which texts are almost the same as others: string [batch, n], [batch, m] -> bool [batch, n, m]."""
    words, theirs = _words(texts), _words(others)
    distinct = _first_ones(words)
    found = tf.reduce_any(words[:, :, :, None, None] == theirs[:, None, None], axis=4)  # [batch, n, words, m]
    both = tf.reduce_sum(tf.cast(found & distinct[..., None], tf.float32), axis=2)  # [batch, n, m]
    size, their_size = (
        tf.reduce_sum(tf.cast(each, tf.float32), axis=2) for each in (distinct, _first_ones(theirs))
    )
    either = size[:, :, None] + their_size[:, None, :] - both
    return both + 1e-4 >= near_duplicate * tf.maximum(either, 1.0)  # tolerance for the rounded share


def _first_ones(words: Any) -> Any:
    """Where each distinct word of a text occurs first: int64 [batch, n, words] -> bool of the same shape."""
    same = words[:, :, :, None] == words[:, :, None, :]  # [batch, n, words, words]
    place = tf.range(tf.shape(words)[2])
    return (words >= 0) & ~tf.reduce_any(same & (place < place[:, None]), axis=3)


def _repeated(alike: Any) -> Any:
    """Whether a text is similar to an earlier one that is no repetition: bool [batch, n, n] -> [batch, n]."""
    texts = tf.shape(alike)[1]

    def judge(at: Any, kept: Any) -> tuple[Any, Any]:
        repeats = tf.reduce_any(alike[:, at] & kept, axis=1)  # kept only has entries before it
        now = kept | (~repeats[:, None] & (tf.range(texts) == at))
        return at + 1, tf.ensure_shape(now, kept.shape)

    _, kept = tf.while_loop(lambda at, _: at < texts, judge, [tf.constant(0), tf.zeros_like(alike[:, 0])])
    return ~kept
