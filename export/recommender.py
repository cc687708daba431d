"""The servable `genre_recommender`: from a reader's history to articles and click probabilities.

Every signature takes joined strings, one a row (see `parsing`). No row fails the batch that it shares, or
changes the answer to another row; whatever stands in it, what comes out is finite and UTF-8:

=============================  ===============================================================================
a row with                     is answered
=============================  ===============================================================================
nothing, or white space alone  as that of a reader without history; as one without candidates: its columns are
                               padding; as a text without words: the zero vector; by `regress` with 0
white space around its ids     as one without: spaces, tabs and line ends part ids as one space does
white space around its titles  as one without; blank lines of a history are no titles, a blank line among
                               candidates is a candidate without a title
ids that are not known         in a history as if they did not stand there; among candidates each in its own
                               column, with `known` false, the click probability 0 and weights of 0
more clicks than max_history   by the newest `max_history` known ones; all of them, 10,000 too, count as read
a candidate given twice        twice, with equal answers; a click given twice counts twice
invalid UTF-8                  in ids as unknown ids are; in titles with U+FFFD in place of each wrong byte
control characters             in ids as unknown ids are; in titles as BERT does, which leaves them out
fewer columns than the batch   with padding: -1, false or "", in `explain` weights of 0
=============================  ===============================================================================

Read means the same article, or another one of the same title. `regress` alone can fail for one row: bytes
that are no `tf.Example`, or a feature that holds numbers, are refused by TensorFlow's parser, and the request
with them. Through the APIs Regress and MultiInference the former cannot come.
"""

from pathlib import Path
from typing import Any

import tensorflow as tf

from genre_tf.export import parsing
from genre_tf.export.encoding import encode_titles
from genre_tf.export.index import ArticleIndex
from genre_tf.export.names import RECOMMENDER
from genre_tf.export.saved_model import EXAMPLES_INPUT, write_saved_model
from genre_tf.export.selection import Rules, select
from genre_tf.export.served_models import ServedModels, click_logits

NAME = RECOMMENDER
SIGNATURES = {
    "recommend": ("history",),  # the first is the default
    "recommend_text": ("history_text",),
    "score": ("history", "candidates"),
    "score_text": ("history_text", "candidates_text"),
    "score_counters": ("history", "candidates", "clicks", "views", "age_hours"),
    "embed_news": ("text",),
    "embed_user": ("history",),
    "explain": ("history", "candidates"),
    "regress": (EXAMPLES_INPUT,),
}
"""Inputs of each signature, all string [B]."""
PADDING_SCORE = -1.0

Answer = dict[str, tf.Tensor]


class Recommender:
    """The signatures of the servable.

    Args:
        two_tower: has `user_vector` and `encoder`.
        ranker: has `click_logits` and `encoder`.
        index: the articles.
        max_history: newest clicks that make the reader.
        k: articles to recommend.
        retrieve: articles that the towers hand to the ranker.
        rules: what is recommended beside the order of the click probabilities.
    """

    def __init__(
        self,
        two_tower: Any,
        ranker: Any,
        index: ArticleIndex,
        *,
        max_history: int,
        k: int,
        retrieve: int,
        rules: Rules = Rules(),  # noqa: B008  (frozen)
    ) -> None:
        self.two_tower = two_tower
        self.ranker = ranker
        self.models = ServedModels(two_tower, ranker)
        self.index = index
        self.max_history = max_history
        self.k = k
        self.retrieve = max(retrieve, k)
        self.rules = rules

    def recommend(self, history: tf.Tensor) -> Answer:
        """The whole funnel for a reader known by article ids; string [B]."""
        rows = self._known_rows(history)
        newest, mask = _clicks(parsing.newest(rows, self.max_history))  # [B, H]
        reader = self.models.user_vector(self.index.retrieval_vectors(newest), mask)
        clicks = tf.gather(self.index.ranking_vectors, newest)  # [B, H, R]
        return self._funnel(reader, clicks, mask, self.index.keys_of_rows(rows))

    def recommend_text(self, history_text: tf.Tensor) -> Answer:
        """The whole funnel for a reader known by titles, which the index need not know; string [B]."""
        titles = parsing.split_history_titles(history_text)
        newest = parsing.newest(titles, self.max_history)
        for_retrieval, for_ranking = encode_titles(
            newest.flat_values, self.two_tower.encoder, self.ranker.encoder
        )
        clicks, mask = _clicks(newest.with_flat_values(for_retrieval))  # [B, H, D]
        reader = self.models.user_vector(clicks, mask)
        clicks, _ = _clicks(newest.with_flat_values(for_ranking))  # [B, H, R]
        return self._funnel(reader, clicks, mask, self.index.keys_of_titles(titles))

    def score(self, history: tf.Tensor, candidates: tf.Tensor) -> Answer:
        """Click probabilities from texts and categories alone; two string [B]."""
        return self._score(history, self.index.rows(parsing.split_ids(candidates)), None)

    def score_counters(
        self,
        history: tf.Tensor,
        candidates: tf.Tensor,
        clicks: tf.Tensor,
        views: tf.Tensor,
        age_hours: tf.Tensor,
    ) -> Answer:
        """Click probabilities that know the live counters; five string [B], numbers joined by spaces.

        The n-th number belongs to the n-th candidate; missing ones are 0, and more are not looked at.
        """
        rows = self.index.rows(parsing.split_ids(candidates))
        width = parsing.widest(rows)
        counters = [parsing.split_numbers(text) for text in (clicks, views, age_hours)]
        columns = [parsing.to_dense(numbers, width)[0] for numbers in counters]  # 3 x [B, C]
        return self._score(history, rows, tf.stack(columns, axis=-1))

    def score_text(self, history_text: tf.Tensor, candidates_text: tf.Tensor) -> Answer:
        """Click probabilities of titles, which the index need not know; two string [B]."""
        history = parsing.newest(parsing.split_history_titles(history_text), self.max_history)
        candidates = parsing.split_candidate_titles(candidates_text)
        titles = tf.concat([history.flat_values, candidates.flat_values], 0)
        (vectors,) = encode_titles(titles, self.ranker.encoder)
        count = tf.size(history.flat_values)
        clicks, mask = _clicks(history.with_flat_values(vectors[:count]))  # [B, H, R]
        shown, shown_mask = parsing.to_dense(candidates.with_flat_values(vectors[count:]))  # [B, C, R]
        logits = click_logits(self.models, clicks, mask, shown, shown_mask, None)
        return {"click_probability": tf.where(shown_mask, tf.sigmoid(logits), PADDING_SCORE)}

    def embed_news(self, text: tf.Tensor) -> Answer:
        """Vectors of articles (title, or title and abstract) in the two-tower's space; string [B]."""
        (vectors,) = encode_titles(parsing.clean_text(text), self.two_tower.encoder)
        return {"embedding": vectors}

    def embed_user(self, history: tf.Tensor) -> Answer:
        """Vectors of readers in the two-tower's space; string [B]."""
        newest, mask = _clicks(parsing.newest(self._known_rows(history), self.max_history))
        return {"embedding": self.models.user_vector(self.index.retrieval_vectors(newest), mask)}

    def explain(self, history: tf.Tensor, candidates: tf.Tensor) -> Answer:
        """How much each click counts for each candidate: the ranker's own attention; two string [B].

        `history_id` string [B, H] are the clicks that make the reader, oldest first, and `weight` float32
        [B, C, H] sums to 1 over them. It is 0 for all clicks where there is nothing to weigh: a candidate
        that is not known, a reader without a known click, and columns that pad a row.
        """
        newest, mask = _clicks(parsing.newest(self._known_rows(history), self.max_history))  # [B, H]
        shown, _ = parsing.to_dense(self.index.rows(parsing.split_ids(candidates)))  # [B, C]
        vectors = self.index.ranking_vectors
        weights, _ = self.models.attention(tf.gather(vectors, newest), mask, tf.gather(vectors, shown))
        known = tf.cast(shown > 0, tf.float32)[:, :, None]
        return {"history_id": tf.gather(self.index.news_ids, newest), "weight": weights * known}

    def regress(self, inputs: tf.Tensor) -> Answer:
        """TensorFlow Serving's Regress API: the click probability of one candidate; serialized tf.Examples.

        The answer to `score` for the features `history` and `candidate` (the first id, where there are
        several), and 0 where there is no candidate.
        """
        history, candidate = parsing.read_examples(inputs, ("history", "candidate"))
        rows = self.index.rows(parsing.split_ids(candidate))
        shown, _ = parsing.to_dense(rows, tf.constant(1, tf.int64))  # [B, 1]
        return {"outputs": self._probabilities(history, shown, None)[:, 0]}

    def write(self, folder: Path) -> None:
        """Write the SavedModel, every signature in it."""
        tokenizers = [model.encoder.backbone.bert.tokenizer for model in (self.two_tower, self.ranker)]
        signatures = {
            name: (getattr(self, name), dict.fromkeys(inputs, tf.string))
            for name, inputs in SIGNATURES.items()
        }
        # For `genre refresh`, which reads both back.
        attached = {"index": self.index, "models": self.models}
        aliases = self.models.device_functions()
        write_saved_model(folder, [self.index, *tokenizers], signatures, attached, aliases)

    def _known_rows(self, history: tf.Tensor) -> tf.RaggedTensor:
        rows = self.index.rows(parsing.split_ids(history))
        return parsing.keep_entries(rows, rows.flat_values > 0)

    def _score(self, history: tf.Tensor, rows: tf.RaggedTensor, counters: tf.Tensor | None) -> Answer:
        shown, present = parsing.to_dense(rows)  # [B, C]
        probability = self._probabilities(history, shown, counters)
        return {"click_probability": tf.where(present, probability, PADDING_SCORE), "known": shown > 0}

    def _probabilities(self, history: tf.Tensor, shown: tf.Tensor, counters: tf.Tensor | None) -> tf.Tensor:
        """Click probabilities of rows of the index: string [B], int64 [B, C] -> float32 [B, C]."""
        newest, mask = _clicks(parsing.newest(self._known_rows(history), self.max_history))
        known = shown > 0
        logits = click_logits(
            self.models,
            tf.gather(self.index.ranking_vectors, newest),
            mask,
            tf.gather(self.index.ranking_vectors, shown),
            known,
            counters,
        )
        return tf.where(known, tf.sigmoid(logits), 0.0)

    def _funnel(self, reader: tf.Tensor, clicks: tf.Tensor, mask: tf.Tensor, read: tf.RaggedTensor) -> Answer:
        rows, found = self.index.search(reader, read, self.retrieve)  # [B, L]
        vectors = tf.gather(self.index.ranking_vectors, rows)  # [B, L, R]
        counters = tf.gather(self.index.counters, rows)  # [B, L, 3]
        logits = click_logits(self.models, clicks, mask, vectors, found, counters)
        probability = tf.where(found, tf.sigmoid(logits), PADDING_SCORE)
        if self.rules.plain:
            score, place = tf.math.top_k(probability, tf.minimum(self.k, tf.shape(rows)[1]))
            real = score > PADDING_SCORE
        else:
            kinds = tf.gather(self.index.category_numbers, rows)  # [B, L]
            directions = self.index.retrieval_vectors(rows)  # [B, L, D]
            place, real = select(probability, found, directions, kinds, self.k, self.rules)
            score = tf.gather(probability, place, batch_dims=1)
        chosen = tf.gather(rows, place, batch_dims=1)  # [B, at most k]
        missing = tf.stack([[0, 0], [0, self.k - tf.shape(place)[1]]])

        def padded(values: tf.Tensor, padding: Any) -> tf.Tensor:
            filled = tf.pad(tf.where(real, values, padding), missing, constant_values=padding)
            return tf.ensure_shape(filled, [None, self.k])  # [B, k]

        return {
            "news_id": padded(tf.gather(self.index.news_ids, chosen), ""),
            "title": padded(tf.gather(self.index.titles, chosen), ""),
            "score": padded(score, PADDING_SCORE),
        }


def _clicks(rows: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Histories as dense rows and their mask; the models want room for one click at least."""
    return parsing.to_dense(rows, tf.maximum(parsing.widest(rows), 1))
