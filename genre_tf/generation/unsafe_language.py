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
# Lower ones catch more and call more news unsafe: 0.9 % of the titles of MIND's training days.
_THRESHOLD = 0.12
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
        english = [_expression(entry) for entry in entries if not _HAN.search(entry)]
        parts = [rf"\b(?:{'|'.join(english)})\b"] if english else []
        found.append((name.strip("!").upper(), "|".join(parts + chinese), name.startswith("!")))
    return tuple(found)


def _expression(entry: str) -> str:
    """RE2 expression of an English entry; a word of four letters or more also with -s and -ing."""
    escaped = re.escape(entry).replace(r"\*", r"\w*").replace(r"\ ", r"\s+").replace("'", "['’]")
    if not re.fullmatch("[a-z]{3,}[a-rt-z]", entry):
        return escaped
    stem, e = (entry[:-1], "e") if entry.endswith("e") else (entry, "")
    return f"{stem}(?:es?|ing)" if e else f"{stem}(?:s|{stem[-1]}?ing)?"


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


def learn(sentences: list[Sentence]) -> UnsafeLanguage:
    """The model.

    Ridge regression on labels of -1 and 1, in its dual form, since there are more features than sentences.
    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 7.10 and 18.3.5.
    """
    bucket, design, labels, _ = _design(sentences)
    dual = np.linalg.solve(_gram(design), labels)
    weights = np.zeros(BUCKETS, np.float32)
    weights[bucket] = design.T @ dual
    return UnsafeLanguage(weights=weights, bias=float(dual.sum()), threshold=_THRESHOLD)


def held_out_logits(sentences: list[Sentence]) -> npt.NDArray[np.float64]:
    """The logit of each sentence by a model that has seen no sentence of its kind."""
    _, design, labels, harmful = _design(sentences)
    inverse = np.linalg.inv(_gram(design).astype(np.float64))
    dual = inverse @ labels
    held_out = np.zeros(len(labels))
    kinds = np.array([f"{sentence.language} {sentence.kind}" for sentence in sentences])
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        held_out[rows] = labels[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], dual[rows])
    held_out[~harmful] = -np.inf
    return held_out


def _gram(design: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return design @ design.T + 1.0 + _RIDGE * np.eye(len(design), dtype=np.float32)  # 1.0 is for the bias


def _design(sentences: list[Sentence]) -> tuple[Any, ...]:
    """Buckets that occur at least twice, [F]; features, [n, F]; labels, [n]; and which are harmful, [n]."""
    texts = tf.constant([sentence.text for sentence in sentences])
    found = features(tf.strings.regex_replace(texts, r"[.!?;。！？；]+", " "))  # each text as one sentence
    rows, buckets = found.text.numpy()[found.sentence.numpy()], found.bucket.numpy()
    values = scale(np.bincount(rows, minlength=len(sentences))).numpy()[rows]
    often = np.bincount(buckets, minlength=BUCKETS)[buckets] > 1
    bucket, column = np.unique(buckets[often], return_inverse=True)
    design = np.zeros((len(sentences), len(bucket)), np.float32)
    design[rows[often], column] = values[often]
    labels = np.array([1.0 if sentence.unsafe else -1.0 for sentence in sentences], np.float32)
    return bucket, design, labels, found.harmful.numpy()


@functools.cache
def default_unsafe_language() -> UnsafeLanguage:
    """The model that the package's sentences give; learned once in a process, in two seconds."""
    with tf.init_scope():  # also if the first use is in a graph
        return learn(read_sentences())
