"""The servable `genre_recommender`: from a reader's history to articles and click probabilities.

Every signature of `genre_tf.contract` takes joined strings, one per row (see `parsing`). No row can fail its
batch or change the answer for another row; every answer is finite and valid UTF-8, whatever the row contains:

=============================  ===============================================================================
a row with                     is answered like this
=============================  ===============================================================================
nothing, or only white space   a history: as for a reader without history; candidates: padding in all columns;
                               a text: the zero vector; `regress`: 0
white space around its ids     ids are separated by any run of spaces, tabs and newlines
white space around its titles  white space around titles is ignored; blank lines are ignored in a history, but
                               are candidates without a title among candidates
unknown ids                    in a history they are ignored; among candidates each keeps its own column, with
                               `known` false, click probability 0 and weights of 0
more clicks than max_history   from the newest `max_history` known clicks; all clicks, even 10,000, count as
                               read
a candidate given twice        twice, with equal answers; a click given twice counts twice
invalid UTF-8                  an id is unknown; in a title, U+FFFD replaces each invalid byte
control characters             an id is unknown; in a title they are left out, as BERT does
counters of `recommend_live`   the n-th number belongs to the n-th id; missing numbers are 0; ignored are
                               further numbers, unknown ids, an article's second mention, and everything after
                               the first 2,000 ids
an invalid number              letters, negative and infinite numbers count as 0; numbers above 1e9 as 1e9
fewer columns than the batch   with padding: -1, false or "", and weights of 0 in `explain`
=============================  ===============================================================================

An article counts as read if it, or another article with the same title, is in the history. Only `regress` can
fail because of one row: TensorFlow's parser refuses the whole request if a row is not a `tf.Example` or if a
feature has numbers. The former cannot happen through the Regress and MultiInference APIs.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import tensorflow as tf

from genre_tf.contract import COUNTERS, MOST_LIVE, PADDING_NUMBER
from genre_tf.funnel import parsing
from genre_tf.funnel.index import ArticleIndex, Found, Live
from genre_tf.funnel.rules import Rules, select
from genre_tf.funnel.served_models import ServedModels, click_logits, encode_titles

KEY_BUCKETS, KEY_SEPARATOR = 2**30, "\n"

Answer = dict[str, tf.Tensor]


@dataclass(frozen=True, eq=False)
class Recommender:
    """The signatures of the servable."""

    models: ServedModels
    index: ArticleIndex
    _: KW_ONLY
    max_history: int  # number of newest clicks that represent the reader
    k: int  # number of recommended articles
    retrieve: int  # number of articles that the towers pass to the ranker; at least k
    rules: Rules = Rules()  # noqa: RUF009  (frozen)

    def recommend(self, history: tf.Tensor) -> Answer:
        """Recommend articles to a reader whose history consists of article ids; string [B]."""
        return self._recommend(history, None)

    def recommend_live(self, history: tf.Tensor, news_id: tf.Tensor, *counters: tf.Tensor) -> Answer:
        """As `recommend`, with current `COUNTERS`, an input each, for the articles in `news_id`.

        The answer is the same as from a version refreshed with these counters: a server knows what is popular
        now without loading a new version.
        """
        rows = self.index.rows(parsing.first(parsing.split_ids(news_id), MOST_LIVE))
        named, _ = parsing.to_dense(rows)  # [B, W]
        width = tf.shape(named, tf.int64)[1]
        known = _columns(counters, width)  # [B, W, 9]
        return self._recommend(history, Live(_each_once(named), known, self.models.moment_bias(known)))

    def retrieved(self, history: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows that the towers pass to the ranker, best first: int64 [B, L], and bool [B, L], if real."""
        rows = self._known_rows(history)
        asked = self.index.ask(self.models.query(self.embed_user(history)["embedding"]))
        found = self.index.search(asked, self.index.keys_of_rows(rows), self.retrieve)
        return found.rows, found.real

    def _recommend(self, history: tf.Tensor, live: Live | None) -> Answer:
        rows = self._known_rows(history)
        of_reader = parsing.newest(rows, self.max_history)
        newest, mask = dense_clicks(of_reader)  # [B, H]
        reader = self.models.user_vector(self.index.retrieval_vectors(newest), mask)
        clicks = tf.gather(self.index.ranking_vectors, newest)  # [B, H, R]
        read = self.index.keys_of_rows(rows)
        ids = of_reader.with_flat_values(tf.gather(self.index.news_ids, of_reader.flat_values))
        return self._funnel(reader, clicks, mask, read, _request_keys(ids), live)

    def recommend_text(self, history_text: tf.Tensor) -> Answer:
        """Recommend articles to a reader whose history is titles, also unknown ones; string [B]."""
        titles = parsing.split_history_titles(history_text)
        newest = parsing.newest(titles, self.max_history)
        (of_tower, clicks), mask = clicks_of_titles(newest, *self.models.encoders())
        reader = self.models.user_vector(of_tower, mask)
        read = self.index.keys_of_titles(titles)
        return self._funnel(reader, clicks, mask, read, _request_keys(newest), None)

    def score(self, history: tf.Tensor, candidates: tf.Tensor) -> Answer:
        """Click probabilities from texts and categories alone; 2 x string [B]."""
        return self._score(history, self.index.rows(parsing.split_ids(candidates)), None)

    def score_counters(
        self,
        history: tf.Tensor,
        candidates: tf.Tensor,
        clicks: tf.Tensor,
        views: tf.Tensor,
        age_hours: tf.Tensor,
    ) -> Answer:
        """Click probabilities with live counters; 5 x string [B], numbers joined by spaces.

        The n-th number belongs to the n-th candidate; missing numbers are 0, further numbers are ignored.
        """
        rows = self.index.rows(parsing.split_ids(candidates))
        known = _columns((clicks, views, age_hours), parsing.widest(rows))  # [B, C, 3]
        halved = [[0, 0], [0, 0], [0, len(COUNTERS) - known.shape[2]]]  # the model does not use these columns
        return self._score(history, rows, tf.pad(known, halved))

    def score_text(self, history_text: tf.Tensor, candidates_text: tf.Tensor) -> Answer:
        """Click probabilities of titles, also unknown ones; 2 x string [B]."""
        history = parsing.newest(parsing.split_history_titles(history_text), self.max_history)
        candidates = parsing.split_candidate_titles(candidates_text)
        titles = tf.concat([history.flat_values, candidates.flat_values], 0)
        (vectors,) = encode_titles(titles, self.models.encoders()[1])
        count = tf.size(history.flat_values)
        clicks, mask = dense_clicks(history.with_flat_values(vectors[:count]))  # [B, H, R]
        shown, shown_mask = parsing.to_dense(candidates.with_flat_values(vectors[count:]))  # [B, C, R]
        logits = self.models.click_logits(clicks, mask, shown, shown_mask)
        return {"click_probability": tf.where(shown_mask, tf.sigmoid(logits), PADDING_NUMBER)}

    def embed_news(self, text: tf.Tensor) -> Answer:
        """Vectors of articles (title, or title and abstract) from the two-tower model; string [B]."""
        (vectors,) = encode_titles(parsing.clean_text(text), self.models.encoders()[0])
        return {"embedding": vectors}

    def embed_user(self, history: tf.Tensor) -> Answer:
        """Vectors of readers from the two-tower model; string [B]."""
        newest, mask = dense_clicks(parsing.newest(self._known_rows(history), self.max_history))
        return {"embedding": self.models.user_vector(self.index.retrieval_vectors(newest), mask)}

    def explain(self, history: tf.Tensor, candidates: tf.Tensor) -> Answer:
        """How much each click counts for each candidate: the ranker's own attention; 2 x string [B].

        `history_id`, string [B, H], are the clicks that represent the reader, oldest first; `weight`, float32
        [B, C, H], sums to 1 over them. All weights are 0 for an unknown candidate, for a reader without known
        clicks and for padding.
        """
        newest, mask = dense_clicks(parsing.newest(self._known_rows(history), self.max_history))  # [B, H]
        shown, _ = parsing.to_dense(self.index.rows(parsing.split_ids(candidates)))  # [B, C]
        vectors = self.index.ranking_vectors
        weights, _ = self.models.attention(tf.gather(vectors, newest), mask, tf.gather(vectors, shown))
        known = tf.cast(shown > 0, tf.float32)[:, :, None]
        return {"history_id": tf.gather(self.index.news_ids, newest), "weight": weights * known}

    def regress(self, inputs: tf.Tensor) -> Answer:
        """Regress API of TensorFlow Serving: click probability of one candidate; serialized tf.Examples [B].

        The answer is that of `score` for the features `history` and `candidate` (the first id, if there are
        several), and 0 without a candidate.
        """
        history, candidate = parsing.read_examples(inputs, ("history", "candidate"))
        rows = self.index.rows(parsing.split_ids(candidate))
        shown, _ = parsing.to_dense(rows, tf.constant(1, tf.int64))  # [B, 1]
        return {"outputs": self._probabilities(history, shown, None)[:, 0]}

    def _known_rows(self, history: tf.Tensor) -> tf.RaggedTensor:
        rows = self.index.rows(parsing.split_ids(history))
        return parsing.keep_entries(rows, rows.flat_values > 0)

    def _score(self, history: tf.Tensor, rows: tf.RaggedTensor, counters: tf.Tensor | None) -> Answer:
        shown, present = parsing.to_dense(rows)  # [B, C]
        probability = self._probabilities(history, shown, counters)
        return {"click_probability": tf.where(present, probability, PADDING_NUMBER), "known": shown > 0}

    def _probabilities(self, history: tf.Tensor, shown: tf.Tensor, counters: tf.Tensor | None) -> tf.Tensor:
        """Click probabilities of rows of the index: string [B], int64 [B, C] -> float32 [B, C]."""
        newest, mask = dense_clicks(parsing.newest(self._known_rows(history), self.max_history))
        known = shown > 0
        logits = click_logits(
            self.models,
            tf.gather(self.index.ranking_vectors, newest),
            mask,
            tf.gather(self.index.ranking_vectors, shown),
            known,
            counters=counters,
        )
        return tf.where(known, tf.sigmoid(logits), 0.0)

    def _funnel(
        self,
        reader: tf.Tensor,
        clicks: tf.Tensor,
        mask: tf.Tensor,
        read: tf.RaggedTensor,
        keys: tf.Tensor,
        live: Live | None,
    ) -> Answer:
        """Retrieve, rank, choose.

        Args:
            reader: float32 [B, D].
            clicks: float32 [B, H, R], for the ranker.
            mask: bool [B, H], True for real clicks.
            read: title keys of everything read, int64 [B, (keys)].
            keys: int64 [B], keys of the requests, which determine exploration.
            live: counters from the request.
        """
        asked = self.index.ask(self.models.query(reader))
        found = self.index.search(asked, read, self.retrieve, live)
        rows, counters = found.rows, found.counters  # [B, L], [B, L, 9]
        explores = self.rules.exploration > 0
        if explores:
            fresh, of_fresh, there = self.index.explore(asked, read, keys, live)
            rows = tf.concat([rows, fresh[:, None]], axis=1)  # ranked with the others, but chosen separately
            counters = tf.concat([counters, of_fresh[:, None]], axis=1)
        vectors = tf.gather(self.index.ranking_vectors, rows)  # [B, L, R]
        probability = tf.sigmoid(self.models.pool_logits(clicks, mask, vectors, counters))
        retrieved = tf.shape(found.rows)[1]
        place, real = self._best(tf.where(found.real, probability[:, :retrieved], PADDING_NUMBER), found)
        missing = tf.stack([[0, 0], [0, self.k - tf.shape(place)[1]]])
        place, real = tf.pad(place, missing), tf.pad(real, missing)  # [B, k]
        chosen, score = (tf.gather(values, place, batch_dims=1) for values in (rows, probability))
        if explores:
            there &= tf.cast(keys, tf.float32) < self.rules.exploration * KEY_BUCKETS
            there &= ~tf.reduce_any((chosen == fresh[:, None]) & real, axis=1)
            last = tf.minimum(tf.reduce_sum(tf.cast(real, tf.int32), axis=1), self.k - 1)  # [B]
            taken = there[:, None] & tf.one_hot(last, self.k, on_value=True, off_value=False)
            chosen = tf.where(taken, fresh[:, None], chosen)
            score = tf.where(taken, probability[:, retrieved:], score)
            real |= taken

        def padded(values: tf.Tensor, padding: Any) -> tf.Tensor:
            return tf.ensure_shape(tf.where(real, values, padding), [None, self.k])  # [B, k]

        return {
            "news_id": padded(tf.gather(self.index.news_ids, chosen), ""),
            "title": padded(tf.gather(self.index.titles, chosen), ""),
            "score": padded(score, PADDING_NUMBER),
        }

    def _best(self, probability: tf.Tensor, found: Found) -> tuple[tf.Tensor, tf.Tensor]:
        """Positions of the recommended articles, best first, and which are real: 2 x [B, at most k]."""
        if self.rules.plain:
            score, place = tf.math.top_k(probability, tf.minimum(self.k, tf.shape(probability)[1]))
            return place, score > PADDING_NUMBER
        kinds = tf.gather(self.index.category_numbers, found.rows)  # [B, L]
        directions = self.index.retrieval_vectors(found.rows)  # [B, L, D]
        place, real = select(probability, found.real, directions, kinds, self.k, self.rules)
        return tf.cast(place, tf.int32), real


def clicks_of_titles(titles: tf.RaggedTensor, *encoders: Any) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Each reader's clicks by each encoder, float32 [B, H, D] each, and which are real, bool [B, H]."""
    vectors = encode_titles(titles.flat_values, *encoders)
    clicks, masks = zip(*(dense_clicks(titles.with_flat_values(each)) for each in vectors), strict=True)
    return list(clicks), masks[0]


def dense_clicks(rows: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Histories as dense rows and their mask; the models need at least one column."""
    return parsing.to_dense(rows, tf.maximum(parsing.widest(rows), 1))


def _columns(texts: Sequence[tf.Tensor], width: tf.Tensor) -> tf.Tensor:
    """Numbers of several inputs side by side, parsed together: F x string [B] -> float32 [B, W, F]."""
    numbers, _ = parsing.to_dense(parsing.split_numbers(tf.concat(texts, 0)), width)  # [F x B, W]
    return tf.stack(tf.split(numbers, len(texts)), axis=-1)


def _request_keys(newest: tf.RaggedTensor) -> tf.Tensor:
    """Keys that decide exploration, from the newest clicks: string [B, (ids)] -> int64 [B]."""
    joined = tf.strings.unsorted_segment_join(
        newest.flat_values, newest.value_rowids(), newest.nrows(), separator=KEY_SEPARATOR
    )
    return tf.strings.to_hash_bucket_fast(joined, KEY_BUCKETS)


def _each_once(rows: tf.Tensor) -> tf.Tensor:
    """Rows int64 [B, W], with 0 for every repetition of a row."""
    order = tf.argsort(rows, axis=1, stable=True)
    sorted_rows = tf.gather(rows, order, batch_dims=1)
    again = tf.pad(sorted_rows[:, 1:] == sorted_rows[:, :-1], [[0, 0], [1, 0]])[:, : tf.shape(rows)[1]]
    back = tf.argsort(order, axis=1, stable=True)
    return tf.where(tf.gather(again, back, batch_dims=1), tf.zeros_like(rows), rows)
