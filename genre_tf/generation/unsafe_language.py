"""A classifier of unsafe language in English and Chinese, in the graph, from raw strings.

It finds hate, threats and incitement, encouragement to self-harm, sexual content and dangerous instructions,
and passes news about them. It reads classes of words (`safety_classes.txt`) in place of the words, so that
"how to build a bomb" and "ways to make explosives" have the same features. It learns from the sentences of
`unsafe_sentences.txt` when it is first used, so no weights come with the package.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.generation.grounding import folded

BUCKETS = 2**15
_HERE = Path(__file__).parent
_HAN = re.compile("[\u3400-\u9fff]")
_SENTENCE_END = r"[.!?;。！？；\n]+"
_LEAST_FEATURES = 4  # otherwise one word would decide about a text of one word
_MOST_CLASSES = 40  # of a sentence, whose pairs are features
_RIDGE = 10.0  # 5 to 40 found about as many of the left-out kinds of phrasing (measured on a prototype)
# Lower ones catch more and call more news unsafe: about 1 % of the titles of MIND, in both languages.
_THRESHOLD = 0.08
_SAFE = -1e9  # logit of a sentence without a harmful class


class Features(NamedTuple):
    """Distinct features of sentences."""

    sentence: Any  # int64 [features]
    bucket: Any  # int64 [features], below BUCKETS
    harmful: Any  # bool [sentences], whether a word of a harmful class is in it
    text: Any  # int64 [sentences], the text that the sentence is from


@functools.cache
def _classes() -> tuple[tuple[str, str, bool], ...]:
    """For each class its name in capitals, its RE2 expression, and whether it is harmful."""
    found = []
    for line in (_HERE / "safety_classes.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, _, listed = line.partition(":")
        entries = sorted(
            {entry.strip() for entry in listed.split(",")} - {""}, key=lambda one: (-len(one), one)
        )
        chinese = [entry for entry in entries if _HAN.search(entry)]
        english = [
            re.escape(entry).replace(r"\*", r"\w*").replace(r"\ ", r"\s+").replace("'", "['’]")
            for entry in entries
            if not _HAN.search(entry)
        ]
        parts = [rf"\b(?:{'|'.join(english)})\b"] if english else []
        found.append((name.strip("!").upper(), "|".join(parts + chinese), name.startswith("!")))
    return tuple(found)


@functools.cache
def _simplified() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Code points of traditional characters, ascending, and their simplified forms (OpenCC, Apache 2.0)."""
    pairs = (_HERE / "simplified.txt").read_text("utf-8").split()
    traditional, simple = zip(*sorted((ord(pair[0]), ord(pair[1])) for pair in pairs), strict=True)
    return np.array(traditional, np.int32), np.array(simple, np.int32)


def _in_simplified(texts: Any) -> Any:
    traditional, simple = (tf.constant(codes) for codes in _simplified())
    codes = tf.strings.unicode_decode(texts, "UTF-8")
    place = tf.minimum(tf.searchsorted(traditional, codes.values), tf.size(traditional) - 1)
    mapped = tf.where(tf.gather(traditional, place) == codes.values, tf.gather(simple, place), codes.values)
    return tf.strings.unicode_encode(codes.with_values(mapped), "UTF-8")


def features(texts: Any) -> Features:
    """Features of texts, string [texts]: words, neighbouring words, and pairs of classes at any distance."""
    lower = _in_simplified(tf.strings.lower(folded(texts), encoding="utf-8"))
    sentences = tf.strings.split(tf.strings.regex_replace(lower, _SENTENCE_END, "\n"), "\n")
    flat = sentences.values
    for name, pattern, _ in _classes():
        flat = tf.strings.regex_replace(flat, pattern, f" {name} ")
    for pattern, rewrite in (
        (r"([\x{3400}-\x{9fff}])", r" \1 "),
        (r"\d+", " 0 "),
        (r"[^\p{L}\p{M}\p{N}\s]+", " "),
    ):
        flat = tf.strings.regex_replace(flat, pattern, rewrite)
    words = tf.strings.split(flat)  # ragged [sentences, words]
    count = words.nrows()
    edge = tf.fill([count, 1], "^")
    alone = tf.concat([edge, words, edge], axis=1)
    pairs = tf.strings.ngrams(alone, 2)
    is_class = words.with_values(tf.strings.regex_full_match(words.values, "[A-Z]+"))
    classes = tf.ragged.boolean_mask(words, is_class)[:, :_MOST_CLASSES]
    harmful_names = "|".join(name for name, _, harmful in _classes() if harmful)
    harmful = tf.reduce_any(
        classes.with_values(tf.strings.regex_full_match(classes.values, harmful_names)), axis=1
    )
    dense = classes.to_tensor("")  # [sentences, classes]
    place = tf.range(tf.shape(dense)[1])
    both = (dense != "")[:, None, :] & (place[:, None] < place)[
        None
    ]  # the later one stands after the earlier
    where = tf.where(both)  # [class pairs, 3]
    distant = tf.strings.join(
        [tf.gather_nd(dense, where[:, :2]), tf.gather_nd(dense, where[:, ::2])], separator=">"
    )
    of = tf.concat([alone.value_rowids(), pairs.value_rowids(), where[:, 0]], 0)
    bucket = tf.strings.to_hash_bucket_fast(tf.concat([alone.values, pairs.values, distant], 0), BUCKETS)
    distinct, _ = tf.unique(of * BUCKETS + bucket)
    return Features(distinct // BUCKETS, distinct % BUCKETS, harmful, sentences.value_rowids())


def scale(counts: Any) -> Any:
    """Value of each feature of sentences with so many features: long sentences have more, of less weight."""
    return 5.0 / tf.sqrt(tf.maximum(tf.cast(counts, tf.float32), _LEAST_FEATURES))


@dataclass(frozen=True, kw_only=True, eq=False)
class UnsafeLanguage:
    """A linear model of a sentence's features; a text is as unsafe as its worst sentence."""

    weights: npt.NDArray[np.float32]  # [BUCKETS]
    bias: float
    threshold: float  # logits from here on are unsafe

    def logits(self, texts: Any) -> Any:
        """string [...], UTF-8 -> float32 [...]."""
        flat = tf.reshape(texts, [-1])
        found = features(flat)
        sentences = tf.size(found.harmful)
        summed = tf.math.unsorted_segment_sum(
            tf.gather(tf.constant(self.weights), found.bucket), found.sentence, sentences
        )
        counts = tf.math.unsorted_segment_sum(tf.ones_like(found.sentence), found.sentence, sentences)
        logits = tf.where(found.harmful, scale(counts) * summed + self.bias, _SAFE)
        return tf.reshape(tf.math.unsorted_segment_max(logits, found.text, tf.size(flat)), tf.shape(texts))

    def is_unsafe(self, texts: Any) -> Any:
        """string [...], UTF-8 -> bool [...]."""
        return self.logits(texts) >= self.threshold


class Sentence(NamedTuple):
    """A sentence to learn."""

    unsafe: bool
    language: str
    kind: str  # subject and way of phrasing; cross-validation leaves out one at a time
    text: str


def read_sentences() -> list[Sentence]:
    """The sentences of `unsafe_sentences.txt`: under `[label language kind]` one a line."""
    found, head = [], ("", "", "")
    for line in (_HERE / "unsafe_sentences.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            label, language, kind = line.strip("[]").split()
            head = (label, language, kind)
        elif line and not line.startswith("#"):
            found.append(Sentence(head[0] == "unsafe", head[1], head[2], line))
    return found


def learn(sentences: list[Sentence]) -> tuple[UnsafeLanguage, npt.NDArray[np.float64]]:
    """The model, and the logit of each sentence by a model that has seen no sentence of its kind.

    Ridge regression on labels of -1 and 1, in its dual form, since there are more features than sentences.
    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 7.10 and 18.3.5.
    """
    bucket, design, harmful = _design([sentence.text for sentence in sentences])
    labels = np.array([1.0 if sentence.unsafe else -1.0 for sentence in sentences])
    gram = design @ design.T + 1.0  # the constant is the bias
    inverse = np.linalg.inv(gram.astype(np.float64) + _RIDGE * np.eye(len(labels)))
    dual = inverse @ labels
    held_out = np.zeros(len(labels))
    kinds = np.array([f"{sentence.language} {sentence.kind}" for sentence in sentences])
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        held_out[rows] = labels[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], dual[rows])
    held_out[~harmful] = -np.inf
    weights = np.zeros(BUCKETS, np.float32)
    weights[bucket] = design.T @ dual.astype(np.float32)
    return UnsafeLanguage(weights=weights, bias=float(dual.sum()), threshold=_THRESHOLD), held_out


def _design(texts: list[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Buckets that occur, [F]; features of each text, read as one sentence, [n, F]; which are harmful."""
    found = features(tf.strings.regex_replace(tf.constant(texts), r"[.!?;。！？；]+", " "))
    rows = found.text.numpy()[found.sentence.numpy()]
    bucket, column = np.unique(found.bucket.numpy(), return_inverse=True)
    design = np.zeros((len(texts), len(bucket)), np.float32)
    design[rows, column] = scale(np.bincount(rows, minlength=len(texts))).numpy()[rows]
    return bucket, design, found.harmful.numpy()


@functools.cache
def default_unsafe_language() -> UnsafeLanguage:
    """The model that the package's sentences give; learned once in a process, in two seconds."""
    with tf.init_scope():  # also if the first use is in a graph
        return learn(read_sentences())[0]
