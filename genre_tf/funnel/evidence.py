"""Finds the articles that a question is about, by its words (BM25), inside the graph.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009. The index is
in variables of open length, so that `genre refresh` can rewrite it with new articles.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from genre_tf.funnel import parsing
from genre_tf.funnel.search import open_variable
from genre_tf.generation.grounding import FUNCTION_WORDS, folded

ARTICLES = 5
"""Number of articles of an answer."""
# Saturation and length: of 0.4, 0.75 (b) and 0.9, 1.2, 1.5 (k1) these find most (recall@1 0.79 instead of
# 0.63). Many articles have only a title, which a high b prefers.
_K1, _B = 0.9, 0.4
_STEM = 7  # only the first letters count, so that "harvest" finds "harvested" (recall@1 0.79 instead of 0.76)
_MOST_WORDS = 64  # of a question; each is compared with every other and with every word of the evidence
_CHUNK_TEXTS = 10_000
_BUCKETS = 2**62
_IDEOGRAPH = r"[\p{Han}\p{Hiragana}\p{Katakana}]"
# Words that ask, or that every text has. They say nothing about the article that a question is about.
_ASKING = (
    *FUNCTION_WORDS,
    *[
        "who",
        "whom",
        "whose",
        "what",
        "which",
        "when",
        "where",
        "why",
        "how",
        "many",
        "much",
        "did",
        "does",
        "do",
    ],
)
_ASKING_IDEOGRAPHS = "[的了吗呢吧是在谁什么哪几何怎样为多少和与于被把]"


class Question(NamedTuple):
    """Words of questions, without those that only ask; fingerprints, padded with 0."""

    words: Any  # int64 [B, Q]
    named: Any  # bool [B, Q], whether the word begins with a capital letter or has a digit
    weight: Any  # float32 [B, Q], its inverse document frequency; 0 for padding and repetitions


class Found(NamedTuple):
    """The result of a search, best first."""

    rows: Any  # int64 [B, E]
    score: Any  # float32 [B, E], BM25; 0 for no article
    question: Question


class Evidence(tf.Module):
    """Articles for questions: ids, titles, and texts. Those without a title and repeated titles are left out.

    Of each word, the article numbers and its share of their BM25 scores are stored together: 8 bytes for each
    distinct word of an article, beside the texts.
    """

    def __init__(self, news_ids: Sequence[str], titles: Sequence[str], texts: Sequence[str]) -> None:
        super().__init__(name="evidence")
        first: dict[str, int] = {}
        for row, title in enumerate(titles):
            if title.strip():
                first.setdefault(title.strip().casefold(), row)
        rows = list(first.values())
        self.news_ids, self.titles, self.texts = (
            # A look-up needs at least one article; without words it is never found.
            open_variable(parsing.clean_text(tf.constant([column[row] for row in rows] or [""])), name)
            for name, column in (("news_ids", news_ids), ("titles", titles), ("texts", texts))
        )
        words, starts, articles, shares = _postings(self.texts.value())
        self.words = open_variable(words, "words")  # int64 [V], sorted fingerprints
        self.starts = open_variable(starts, "starts")  # int64 [V + 1]
        self.articles = open_variable(articles, "articles")  # int32 [P]
        self.shares = open_variable(shares, "shares")  # float32 [P]

    def ask(self, questions: Any) -> Question:
        """Words of questions and their weights: string [B]."""
        written = _asked(questions)[:, :_MOST_WORDS]  # ragged string [B, (Q)], with their case
        words = fingerprints(written).to_tensor(0)
        place = tf.range(tf.shape(words)[1])
        repeats = (words[:, :, None] == words[:, None, :]) & (place[None, :] < place[:, None])
        counts = (words > 0) & ~tf.reduce_any(repeats, axis=2)
        frequency = tf.cast(self._look_up(words)[1], tf.float32)
        total = tf.cast(tf.size(self.news_ids), tf.float32)
        weight = tf.math.log1p((total - frequency + 0.5) / (frequency + 0.5))
        named = tf.strings.regex_full_match(written.to_tensor(""), r"\p{Lu}.*|.*\p{N}.*")
        return Question(words, named & counts, tf.where(counts, weight, 0.0))

    def search(self, questions: Any) -> Found:
        """The articles that share most with each question: string [B]."""
        question = self.ask(questions)
        batch, articles = tf.shape(question.words, tf.int64)[0], tf.size(self.news_ids, tf.int64)
        asked = tf.where(question.weight > 0)  # [n, 2]: row and column
        start, count = self._look_up(tf.gather_nd(question.words, asked))
        posting = tf.ragged.range(start, start + count)  # [n, (postings)]
        row = tf.gather(asked[:, 0], posting.value_rowids())
        article = tf.cast(tf.gather(self.articles, posting.flat_values), tf.int64)
        share = tf.gather(self.shares, posting.flat_values)
        scores = tf.math.unsorted_segment_sum(share, row * articles + article, batch * articles)
        found = tf.minimum(ARTICLES, tf.cast(articles, tf.int32))
        best, rows = tf.math.top_k(tf.reshape(scores, [batch, articles]), found)
        missing = tf.stack([[0, 0], [0, ARTICLES - found]])
        score = tf.ensure_shape(tf.pad(best, missing), [None, ARTICLES])
        return Found(tf.cast(tf.pad(rows, missing), tf.int64), score, question)

    def coverage(self, found: Found, texts: Any) -> tuple[Any, Any]:
        """How much of a question the best article has: 2 x float32 [B], of texts string [B].

        The first is the share of the weight of all words, the second of names and numbers (1 without any).
        """
        has = tf.reduce_any(
            found.question.words[:, :, None] == fingerprints(split(texts)).to_tensor(-1)[:, None, :], axis=2
        )
        shares = []
        for counts in (tf.ones_like(found.question.named), found.question.named):
            weight = tf.where(counts, found.question.weight, 0.0)
            total = tf.reduce_sum(weight, axis=1)
            covered = tf.reduce_sum(tf.where(has, weight, 0.0), axis=1)
            shares.append(tf.where(total > 0, covered / tf.maximum(total, 1e-6), 1.0))
        return shares[0], shares[1]

    def columns(self, rows: Any, real: Any) -> tuple[Any, Any, Any]:
        """Ids, titles and texts of rows that `search` found, 3 x string [B, E]; "" where not `real`."""
        ids, titles, texts = (
            tf.where(real, tf.gather(column, rows), "") for column in (self.news_ids, self.titles, self.texts)
        )
        return ids, titles, texts

    def _look_up(self, words: Any) -> tuple[Any, Any]:
        """Where the postings of words begin, and their number: int64 [...] -> 2 x int64 [...]."""
        flat = tf.reshape(words, [-1])
        last = tf.size(self.words, tf.int64) - 1
        place = tf.minimum(tf.searchsorted(self.words, flat, out_type=tf.int64), last)
        start, end = tf.gather(self.starts, place), tf.gather(self.starts, place + 1)
        count = tf.where(tf.gather(self.words, place) == flat, end - start, 0)
        return tf.reshape(start, tf.shape(words)), tf.reshape(count, tf.shape(words))


def split(texts: Any) -> Any:
    """Words of texts with their case: string [B] -> ragged string [B, (words)].

    Ideographs and kana are words alone, and each pair of neighbours is another: `雪崩` is 雪, 崩 and 雪崩.
    """
    text = tf.strings.regex_replace(folded(texts), r"['’][sS]\b", "")
    text = tf.strings.regex_replace(text, r"(\d),(\d)", r"\1\2")
    text = tf.strings.regex_replace(text, f"({_IDEOGRAPH})", r" \1 ")
    # A mark keeps ideographs on both sides of punctuation from being a pair.
    words = tf.strings.split(tf.strings.regex_replace(text, r"[^\p{L}\p{M}\p{N}\s]+", " | "))
    first, second = words[:, :-1].flat_values, words[:, 1:]
    both = [tf.strings.regex_full_match(part, _IDEOGRAPH) for part in (first, second.flat_values)]
    pairs = second.with_flat_values(tf.strings.join([first, second.flat_values]))
    pairs = parsing.keep_entries(pairs, both[0] & both[1])
    words = parsing.keep_entries(words, words.flat_values != "|")
    return tf.concat([words, pairs], axis=1)


def fingerprints(words: Any) -> Any:
    """Fingerprints of words by their first letters, without case: ragged string -> ragged int64, above 0."""
    stems = tf.strings.substr(tf.strings.lower(words.flat_values, "utf-8"), 0, _STEM, unit="UTF8_CHAR")
    return words.with_flat_values(1 + tf.strings.to_hash_bucket_fast(stems, _BUCKETS))


def _asked(questions: Any) -> Any:
    """Words of questions without those that only ask: string [B] -> ragged string [B, (words)]."""
    forms = "|".join(sorted({form for word in _ASKING for form in (word, word.capitalize())}))
    text = tf.strings.regex_replace(folded(questions), rf"\b(?:{forms})\b", " ")
    return split(tf.strings.regex_replace(text, _ASKING_IDEOGRAPHS, " "))


def _postings(texts: Any) -> tuple[Any, Any, Any, Any]:
    """The index of texts, string [N]: fingerprints of words, where each begins, articles, and shares."""
    parts = []
    for start in range(0, len(texts), _CHUNK_TEXTS):
        words = fingerprints(split(texts[start : start + _CHUNK_TEXTS]))
        parts.append((words.flat_values.numpy(), words.value_rowids().numpy() + start))
    words, rows = (np.concatenate(part) for part in zip(*parts, strict=True))
    length = np.bincount(rows, minlength=len(texts))
    # Equal words of one article side by side; the number of each is how often the article has it.
    order = np.lexsort((rows, words))
    words, rows = words[order], rows[order]
    new = np.flatnonzero(np.append(True, (words[1:] != words[:-1]) | (rows[1:] != rows[:-1])))[: len(words)]
    often = np.diff(np.append(new, len(words)))
    known, starts = np.unique(words[new], return_index=True)
    starts = np.append(starts, len(new))
    articles = np.diff(starts)
    idf = np.repeat(np.log1p((len(texts) - articles + 0.5) / (articles + 0.5)), articles)
    usual = max(length.mean(), 1.0)
    share = idf * often * (_K1 + 1) / (often + _K1 * (1 - _B + _B * length[rows[new]] / usual))
    known = known if len(known) else np.zeros(1, np.int64)  # a look-up needs one word
    starts = starts if len(starts) > 1 else np.zeros(2, np.int64)
    return known, starts.astype(np.int64), rows[new].astype(np.int32), share.astype(np.float32)
