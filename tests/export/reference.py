"""Expected answers of the recommender, computed with the models and plain Python, one row at a time.

It shares no parsing, padding, look-up, search or choice with the graph: tests compare two independent
implementations, and batched answers with unbatched ones.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.contract import COUNTERS, LARGEST_NUMBER, MOST_LIVE, RECOMMENDER, SIGNATURES
from genre_tf.export.requests import Exchange, stacked
from genre_tf.funnel.index import Catalogue, may_be_found
from genre_tf.funnel.recommender import KEY_BUCKETS, KEY_SEPARATOR
from genre_tf.funnel.rules import Rules, exploration_noise, is_new
from genre_tf.funnel.search import PartitionedIndex
from genre_tf.funnel.served_models import click_logits, moment_biases

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Row = dict[str, Any]
_RETRIEVAL, _RANKING = 0, 1


@dataclass
class RecommenderReference:
    """Computes the answers that `Recommender` must give, row by row and outside any graph."""

    models: Any  # a `ServedModels`, new or read back from a SavedModel
    catalogue: Catalogue
    _: KW_ONLY
    max_history: int  # this and the next three as in `Recommender`
    k: int
    retrieve: int
    rules: Rules = Rules()  # noqa: RUF009  (frozen)
    searched: PartitionedIndex | None = None  # the index whose blocks are searched; None: all articles are

    def __post_init__(self) -> None:
        catalogue = self.catalogue
        self.row_of = {news_id.encode(): row for row, news_id in enumerate(catalogue.news_ids)}
        self.titles = [title.strip() for title in catalogue.titles]
        biases = moment_biases(self.models, catalogue.counters)
        self.vectors = np.column_stack([catalogue.retrieval_vectors, biases])
        self.shown = may_be_found(catalogue, self.rules.max_age_hours)
        rows_of_blocks = self.searched.rows.numpy() if self.searched else ()
        self.blocks = [rows[rows >= 0] for rows in rows_of_blocks]
        self.also: list[int] = []
        means = [self.vectors[rows].sum(0) / max(1, len(rows)) for rows in self.blocks]
        self.means = np.array(means, np.float32)
        self._encoded: dict[tuple[str, ...], list[Vectors]] = {}

    def answer(self, request: Exchange) -> Exchange:
        """Return the request with its answer; each row is computed alone."""
        signature = SIGNATURES[RECOMMENDER][request.signature]
        method = getattr(self, f"_{signature.name}")
        columns = (request.inputs[name] for name in signature.input_names)
        rows = [method(*row) for row in zip(*columns, strict=True)]
        outputs = {one.name: stacked(one, [row[one.name] for row in rows]) for one in signature.outputs}
        return Exchange(request.signature, request.case, request.inputs, outputs)

    def _recommend(self, history: bytes) -> Row:
        rows = self._known(history)
        newest = rows[-self.max_history :]
        return self._funnel(
            self.catalogue.retrieval_vectors[newest],
            self.catalogue.ranking_vectors[newest],
            {self.titles[row] for row in rows},
            rows,
            [self.catalogue.news_ids[row] for row in newest],
        )

    def _recommend_live(self, history: bytes, news_id: bytes, *counters: bytes) -> Row:
        columns = [column.split() for column in counters]
        known, found = self.catalogue.counters.copy(), set()
        for place, one in enumerate(news_id.split()[:MOST_LIVE]):
            row = self.row_of.get(one, 0)
            if row and row not in found:
                found.add(row)
                known[row] = [_number(column[place]) if place < len(column) else 0.0 for column in columns]
        refreshed = copy(self)
        refreshed.catalogue = replace(self.catalogue, counters=known)
        refreshed.also = sorted(found)  # the blocks of the index do not change, so these are searched as well
        refreshed.vectors = self.vectors.copy()
        refreshed.vectors[refreshed.also, -1] = moment_biases(self.models, known[refreshed.also])
        refreshed.shown = may_be_found(refreshed.catalogue, self.rules.max_age_hours)
        return refreshed._recommend(history)

    def _recommend_text(self, history_text: bytes) -> Row:
        titles = _titles(history_text)
        newest = titles[-self.max_history :]
        clicks, ranking_clicks = self._encode(newest)
        return self._funnel(clicks, ranking_clicks, set(titles), [], newest)

    def _score_counters(self, history: bytes, candidates: bytes, *numbers: bytes) -> Row:
        counters = np.zeros((len(candidates.split()), len(COUNTERS)), np.float32)
        for column, text in enumerate(numbers):
            for row, part in enumerate(text.split()[: len(counters)]):
                counters[row, column] = _number(part)
        return self._score(history, candidates, counters)

    def _score_text(self, history_text: bytes, candidates_text: bytes) -> Row:
        text = candidates_text.decode("utf-8", "replace")
        candidates = [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []
        clicks = self._encode(_titles(history_text)[-self.max_history :])[_RANKING]
        shown = self._encode(candidates)[_RANKING]
        return {"click_probability": self._ranked(clicks, shown, np.ones(len(shown), bool), None)}

    def _embed_news(self, text: bytes) -> Row:
        return {"embedding": self._encode([text.decode("utf-8", "replace")])[_RETRIEVAL][0]}

    def _embed_user(self, history: bytes) -> Row:
        newest = self._known(history)[-self.max_history :]
        return {"embedding": self._reader(self.catalogue.retrieval_vectors[newest])}

    def _explain(self, history: bytes, candidates: bytes) -> Row:
        newest = self._known(history)[-self.max_history :]
        shown = [self.row_of.get(news_id, 0) for news_id in candidates.split()]
        weight = np.zeros((len(shown), max(1, len(newest))), np.float32)
        vectors = self.catalogue.ranking_vectors
        for column, row in enumerate(shown):
            if row and newest:
                attended, _ = self.models.attention(*_history(vectors[newest]), vectors[row][None, None])
                weight[column] = np.asarray(attended)[0, 0, : len(newest)]
        ids = [self.catalogue.news_ids[row].encode() for row in newest]
        return {"history_id": ids or [b""], "weight": weight}  # at least one column

    def _regress(self, example: bytes) -> Row:
        features = tf.train.Example.FromString(example).features.feature
        history, candidates = (
            b" ".join(features[name].bytes_list.value) for name in ("history", "candidate")
        )
        first = b" ".join(candidates.split()[:1])
        return {"outputs": [*self._score(history, first)["click_probability"], 0.0][0]}

    def _known(self, history: bytes) -> list[int]:
        return [self.row_of[news_id] for news_id in history.split() if news_id in self.row_of]

    def _encode(self, texts: Sequence[str]) -> list[Vectors]:
        """Vectors of texts for retrieval and for ranking: 2 x float32 [n, D]."""
        key = tuple(texts)
        if not key:
            return [self.catalogue.retrieval_vectors[:0], self.catalogue.ranking_vectors[:0]]
        if key not in self._encoded:
            nothing = tf.fill([len(key)], "")
            vectors = self.models.encode_articles(tf.constant(key), *[nothing] * 3)
            self._encoded[key] = [part.numpy() for part in vectors]
        return self._encoded[key]

    def _score(self, history: bytes, candidates: bytes, counters: Vectors | None = None) -> Row:
        clicks = self.catalogue.ranking_vectors[self._known(history)[-self.max_history :]]
        rows = np.array([self.row_of.get(news_id, 0) for news_id in candidates.split()], int)
        known = rows > 0
        probability = self._ranked(clicks, self.catalogue.ranking_vectors[rows], known, counters)
        return {"click_probability": np.where(known, probability, 0.0), "known": known}

    def _funnel(
        self, clicks: Vectors, ranking_clicks: Vectors, titles: set[str], rows: list[int], newest: list[str]
    ) -> Row:
        """Retrieve, rank, choose, explore.

        `titles` and `rows` (if known) are everything that was read; `newest`, ids or titles of the newest
        clicks, distinguishes this request.
        """
        reader = self._reader(clicks)
        query = np.asarray(self.models.query(tf.constant(reader[None])))[0]
        read = [title in titles and title != "" for title in self.titles]
        found = self.shown & ~np.array(read)
        found[[0, *rows]] = False
        looked_at = np.arange(len(self.vectors))  # rows that the search compares with the reader
        if self.searched is not None:
            nearest = np.argsort(-(self.means @ query), kind="stable")[: self.searched.options.probes]
            looked_at = np.concatenate([self.blocks[block] for block in sorted(nearest)])
            also = np.setdiff1d(np.array(self.also, np.int64), looked_at)
            looked_at = np.concatenate([looked_at, also])
        scores = np.where(found[looked_at], self.vectors[looked_at] @ query, -np.inf)
        order = np.argsort(-scores, kind="stable")[: self.retrieve]
        best = looked_at[order[np.isfinite(scores[order])]]
        probability = self._pool_probability(ranking_clicks, best)
        first = self._chosen(probability, best)
        chosen, score = list(best[first]), list(probability[first])
        new = self._explored(reader, found, newest)
        if new is not None and new not in chosen:
            place = min(len(chosen), self.k - 1)
            chosen[place:] = [new]
            score[place:] = self._pool_probability(ranking_clicks, np.asarray([new]))
        missing = self.k - len(chosen)
        return {
            "news_id": [self.catalogue.news_ids[row].encode() for row in chosen] + [b""] * missing,
            "title": [self.catalogue.titles[row].encode() for row in chosen] + [b""] * missing,
            "score": [*score, *[-1.0] * missing],
        }

    def _explored(self, reader: Vectors, found: npt.NDArray[np.bool_], newest: list[str]) -> int | None:
        """The new article for the last place, if this request explores."""
        key = tf.strings.to_hash_bucket_fast([KEY_SEPARATOR.join(newest)], KEY_BUCKETS)
        new = np.flatnonzero(found & is_new(self.catalogue.counters))
        if not len(new) or np.float32(key.numpy()[0]) >= np.float32(self.rules.exploration * KEY_BUCKETS):
            return None
        noise = np.asarray(exploration_noise(key, tf.constant(new[None])))[0]
        return int(new[np.argmax(self.catalogue.retrieval_vectors[new] @ reader + noise)])

    def _chosen(self, probability: Vectors, rows: Rows) -> list[int]:
        """Positions of the recommended articles among the retrieved rows, best first."""
        if self.rules.plain:
            return np.argsort(-probability, kind="stable")[: self.k].tolist()
        vectors = self.catalogue.retrieval_vectors[rows]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        span = np.ptp(probability) if len(rows) else 0.0
        weight, cap = self.rules.diversity, self.rules.max_per_category or self.k
        kinds = [self.catalogue.categories[row] for row in rows]
        chosen: list[int] = []
        while len(chosen) < self.k:
            used = [kinds[place] for place in chosen]
            values = {}
            for place, kind in enumerate(kinds):
                if place not in chosen and not (kind and used.count(kind) >= cap):
                    nearest = max((float(vectors[place] @ vectors[one]) for one in chosen), default=-1.0)
                    relevance = (probability[place] - probability.min()) / span if span else 0.0
                    values[place] = weight * relevance - (1 - weight) * nearest
            if not values:
                break
            chosen.append(max(values, key=lambda place: values[place]))
        return chosen

    def _reader(self, clicks: Vectors) -> Vectors:
        return np.asarray(self.models.user_vector(*_history(clicks)))[0]

    def _pool_probability(self, clicks: Vectors, rows: Rows) -> Vectors:
        if not len(rows):
            return np.zeros(0, np.float32)
        shown = (
            tf.constant(part[rows][None])
            for part in (self.catalogue.ranking_vectors, self.catalogue.counters)
        )
        logits = self.models.pool_logits(*_history(clicks), *shown)
        return np.asarray(tf.sigmoid(logits))[0]

    def _ranked(self, clicks: Vectors, shown: Vectors, mask: Any, counters: Vectors | None) -> Vectors:
        if not len(shown):
            return np.zeros(0, np.float32)
        live = None if counters is None else tf.constant(counters[None])
        candidates = tf.constant(shown[None]), tf.constant(mask[None])
        logits = click_logits(self.models, *_history(clicks), *candidates, counters=live)
        return np.asarray(tf.sigmoid(logits))[0]


def _history(clicks: Vectors) -> tuple[tf.Tensor, tf.Tensor]:
    """A history as a batch of one row, padded to two clicks: Keras warns about attention to a single one."""
    room = np.zeros((max(2, len(clicks)), clicks.shape[1]), np.float32)
    room[: len(clicks)] = clicks
    mask = np.arange(len(room)) < len(clicks)
    return tf.constant(room[None]), tf.constant(mask[None])


def _titles(text: bytes) -> list[str]:
    lines = text.decode("utf-8", "replace").split("\n")
    return [line.strip() for line in lines if line.strip()]


def _number(text: bytes) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return min(number, LARGEST_NUMBER) if 0 <= number < float("inf") else 0.0
