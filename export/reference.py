"""Expected answers of the servable, computed with the Keras models and plain Python, one row at a time.

It shares no parsing, padding, look-up or search with the graph. So `genre verify` compares two independent
implementations, and batched answers with unbatched ones.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.contract import COUNTERS, LARGEST_NUMBER, MOST_LIVE, PADDING_NUMBER
from genre_tf.export.exchanges import Exchange
from genre_tf.funnel.freshness import NEW_VIEWS, STILL_READ, exploration_noise
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.partitions import Searched
from genre_tf.funnel.recommender import KEY_BUCKETS, KEY_SEPARATOR
from genre_tf.funnel.selection import Rules

Vectors = npt.NDArray[np.float32]
Row = dict[str, Any]
_STRINGS = ("news_id", "title", "history_id")
_PADDING: dict[str, Any] = {"click_probability": PADDING_NUMBER, "score": PADDING_NUMBER}


class RecommenderReference:
    """Computes the answers that `Recommender` must give, row by row and outside any graph.

    Args:
        two_tower: as in `Recommender`.
        ranker: as in `Recommender`.
        catalogue: the articles.
        bias: float32 [N], the term that the counters of each article add to its score.
        max_history: number of newest clicks that represent the reader.
        k: number of recommended articles.
        retrieve: number of articles that the towers pass to the ranker.
        rules: as in `Recommender`.
        searched: the blocks of a partitioned index; None: the index searches all articles.
    """

    def __init__(
        self,
        two_tower: Any,
        ranker: Any,
        catalogue: Catalogue,
        bias: Vectors,
        *,
        max_history: int,
        k: int,
        retrieve: int,
        rules: Rules = Rules(),  # noqa: B008  (frozen)
        searched: Searched | None = None,
    ) -> None:
        self.two_tower = two_tower
        self.ranker = ranker
        self.catalogue = catalogue
        self.max_history = max_history
        self.k = k
        self.retrieve = max(retrieve, k)
        self.rules = rules
        self.row_of = {news_id.encode(): row for row, news_id in enumerate(catalogue.news_ids)}
        self.titles = [title.strip() for title in catalogue.titles]
        self.rows_of_title: dict[str, list[int]] = {}
        for row, title in enumerate(self.titles):
            self.rows_of_title.setdefault(title, []).append(row)
        self.searched = searched
        self.vectors = np.column_stack([catalogue.retrieval_vectors, bias])
        self.shown = _may_be_shown(catalogue, rules.max_age_hours)
        blocks = searched.blocks if searched else []
        vectors = self.vectors
        self.also: list[int] = []
        self.means = np.array([vectors[rows].sum(0) / max(1, len(rows)) for rows in blocks], np.float32)

    def answer(self, request: Exchange) -> Exchange:
        """Return the request with its answer; each row is computed alone."""
        method = getattr(self, f"_{request.signature}")
        names = list(request.inputs)
        columns = [request.inputs[name] for name in names]
        rows = [method(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
        width = self.k if "news_id" in rows[0] else None
        outputs = {name: _stack(name, [row[name] for row in rows], width) for name in rows[0]}
        return Exchange(request.signature, request.case, request.inputs, outputs)

    def _recommend(self, history: bytes) -> Row:
        rows = self._known(history)
        newest = rows[-self.max_history :]
        read = set(rows), {self.titles[row] for row in rows}
        catalogue = self.catalogue
        clicks = catalogue.retrieval_vectors[newest], catalogue.ranking_vectors[newest]
        return self._funnel(*clicks, *read, [catalogue.news_ids[row] for row in newest])

    def _recommend_live(self, history: bytes, news_id: bytes, **counters: bytes) -> Row:
        columns = [counters[name].split() for name in COUNTERS]
        known, found = self.catalogue.counters.copy(), set()
        for place, one in enumerate(news_id.split()[:MOST_LIVE]):
            row = self.row_of.get(one, 0)
            if row and row not in found:
                found.add(row)
                known[row] = [_number(column[place]) if place < len(column) else 0.0 for column in columns]
        named = sorted(found)
        bias = self.vectors[:, -1].copy()
        bias[named] = np.asarray(self.two_tower.moment_bias(tf.constant(known[None, named])))[0]
        refreshed = copy(self)
        refreshed.catalogue = replace(self.catalogue, counters=known)
        refreshed.vectors = np.column_stack([self.catalogue.retrieval_vectors, bias])
        refreshed.shown = _may_be_shown(refreshed.catalogue, self.rules.max_age_hours)
        refreshed.also = named  # the blocks of the index do not change, so these are searched as well
        return refreshed._recommend(history)

    _serving_default = _recommend

    def _recommend_text(self, history_text: bytes) -> Row:
        titles = _titles(history_text)
        newest = titles[-self.max_history :]
        clicks, ranking_clicks = (_encode(model.news, newest) for model in (self.two_tower, self.ranker))
        return self._funnel(clicks, ranking_clicks, set(), set(titles), newest)

    def _score(self, history: bytes, candidates: bytes) -> Row:
        return self._click_probabilities(history, candidates, None)

    def _score_counters(
        self, history: bytes, candidates: bytes, clicks: bytes, views: bytes, age_hours: bytes
    ) -> Row:
        counters = np.zeros((len(candidates.split()), len(COUNTERS)), np.float32)
        for column, text in enumerate((clicks, views, age_hours)):
            for row, part in enumerate(text.split()[: len(counters)]):
                counters[row, column] = _number(part)
        return self._click_probabilities(history, candidates, counters)

    def _score_text(self, history_text: bytes, candidates_text: bytes) -> Row:
        text = candidates_text.decode("utf-8", "replace")
        candidates = [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []
        clicks = _encode(self.ranker.news, _titles(history_text)[-self.max_history :])
        shown = _encode(self.ranker.news, candidates)
        return {"click_probability": list(self._ranked(clicks, shown, np.ones(len(shown), bool), None))}

    def _embed_news(self, text: bytes) -> Row:
        return {"embedding": list(_encode(self.two_tower.news, [text.decode("utf-8", "replace")])[0])}

    def _embed_user(self, history: bytes) -> Row:
        newest = self._known(history)[-self.max_history :]
        return {"embedding": list(self._reader(self.catalogue.retrieval_vectors[newest]))}

    def _explain(self, history: bytes, candidates: bytes) -> Row:
        newest = self._known(history)[-self.max_history :]
        shown = [self.row_of.get(news_id, 0) for news_id in candidates.split()]
        weight = np.zeros((len(shown), max(1, len(newest))), np.float32)
        vectors = self.catalogue.ranking_vectors
        clicks, mask = _history(vectors[newest], self.ranker.news.dimension)
        for column, row in enumerate(shown):
            if row and newest:
                attended, _ = self.ranker.attention(clicks, mask, tf.constant(vectors[row][None, None]))
                weight[column] = np.asarray(attended)[0, 0, : len(newest)]
        ids = [self.catalogue.news_ids[row].encode() for row in newest]
        return {"history_id": ids or [b""], "weight": weight}  # at least one column

    def _regress(self, inputs: bytes) -> Row:
        features = tf.train.Example.FromString(inputs).features.feature
        history, candidates = (
            b" ".join(features[name].bytes_list.value) for name in ("history", "candidate")
        )
        first = b" ".join(candidates.split()[:1])
        return {"outputs": [*self._click_probabilities(history, first, None)["click_probability"], 0.0][0]}

    def _known(self, history: bytes) -> list[int]:
        return [self.row_of[news_id] for news_id in history.split() if news_id in self.row_of]

    def _click_probabilities(self, history: bytes, candidates: bytes, counters: Vectors | None) -> Row:
        clicks = self.catalogue.ranking_vectors[self._known(history)[-self.max_history :]]
        rows = np.array([self.row_of.get(news_id, 0) for news_id in candidates.split()], int)
        known = rows > 0
        shown = self.catalogue.ranking_vectors[rows]
        probability = np.where(known, self._ranked(clicks, shown, known, counters), 0.0)
        return {"click_probability": list(probability), "known": list(known)}

    def _funnel(
        self, clicks: Vectors, ranking_clicks: Vectors, rows: set[int], titles: set[str], newest: list[str]
    ) -> Row:
        reader = self._reader(clicks)
        query = np.asarray(self.two_tower.query(tf.constant(reader[None])))[0]
        looked_at, vectors = self._looked_at(query)
        scores = vectors @ query
        found = self._may_be_found(rows, titles)
        scores[~found[looked_at]] = -np.inf
        order = np.argsort(-scores, kind="stable")[: self.retrieve]
        best = looked_at[order[np.isfinite(scores[order])]]
        probability = self._pool_probability(ranking_clicks, best)
        first = self._chosen(probability, best)
        chosen, score = list(best[first]), list(probability[first])
        self._explore(reader, found, newest, chosen, score, ranking_clicks)
        return {
            "news_id": [self.catalogue.news_ids[row].encode() for row in chosen],
            "title": [self.catalogue.titles[row].encode() for row in chosen],
            "score": score,
        }

    def _explore(
        self,
        reader: Vectors,
        found: npt.NDArray[np.bool_],
        newest: list[str],
        chosen: list[int],
        score: list[float],
        ranking_clicks: Vectors,
    ) -> None:
        """If this request explores, put a new article in the last place of the chosen articles."""
        key = tf.strings.to_hash_bucket_fast([KEY_SEPARATOR.join(newest)], KEY_BUCKETS)
        new = np.flatnonzero(found & (self.catalogue.counters[:, 1] < NEW_VIEWS))
        if not len(new) or np.float32(key.numpy()[0]) >= np.float32(self.rules.exploration * KEY_BUCKETS):
            return
        noise = exploration_noise(key, tf.constant(new[None]))
        drawn = int(new[np.argmax(self.catalogue.retrieval_vectors[new] @ reader + np.asarray(noise)[0])])
        if drawn in chosen:
            return
        place = min(len(chosen), self.k - 1)
        del chosen[place:], score[place:]
        chosen.append(drawn)
        score.append(self._pool_probability(ranking_clicks, np.asarray([drawn]))[0])

    def _looked_at(self, query: Vectors) -> tuple[npt.NDArray[np.int64], Vectors]:
        """Rows that a search compares with the reader, int64 [M], and their vectors, float32 [M, D]."""
        if self.searched is None:
            return np.arange(len(self.vectors)), self.vectors
        nearest = np.argsort(-(self.means @ query), kind="stable")[: self.searched.probes]
        rows = np.concatenate([self.searched.blocks[block] for block in sorted(nearest)])
        rows = np.concatenate([rows, np.setdiff1d(np.array(self.also, np.int64), rows)])
        return rows, self.vectors[rows]

    def _may_be_found(self, rows: set[int], titles: set[str]) -> npt.NDArray[np.bool_]:
        """Which articles may be shown and have not been read: bool [N]."""
        read = [0, *rows, *(row for title in titles if title for row in self.rows_of_title.get(title, ()))]
        found = self.shown.copy()
        found[read] = False
        return found

    def _chosen(self, probability: Vectors, rows: npt.NDArray[np.int64]) -> list[int]:
        """Positions of the recommended articles among the retrieved rows, best first."""
        best = np.argsort(-probability, kind="stable")
        if self.rules.plain:
            return best[: self.k].tolist()
        vectors = self.catalogue.retrieval_vectors[rows]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        span = np.ptp(probability) if len(rows) else 0.0
        weight, cap = self.rules.diversity, self.rules.max_per_category or self.k
        chosen: list[int] = []
        while len(chosen) < self.k:
            kinds = [self.catalogue.categories[rows[place]] for place in chosen]
            values = {}
            for place in range(len(rows)):
                kind = self.catalogue.categories[rows[place]]
                if place not in chosen and not (kind and kinds.count(kind) >= cap):
                    nearest = max((float(vectors[place] @ vectors[one]) for one in chosen), default=-1.0)
                    relevance = (probability[place] - probability.min()) / span if span else 0.0
                    values[place] = weight * relevance - (1 - weight) * nearest
            if not values:
                break
            chosen.append(max(values, key=lambda place: values[place]))
        return chosen

    def _reader(self, clicks: Vectors) -> Vectors:
        history, mask = _history(clicks, self.two_tower.news.dimension)
        return np.asarray(self.two_tower.user_vector(history, mask))[0]

    def _pool_probability(self, clicks: Vectors, rows: npt.NDArray[np.int64]) -> Vectors:
        if not len(rows):
            return np.zeros(0, np.float32)
        history, mask = _history(clicks, self.ranker.news.dimension)
        shown, counters = self.catalogue.ranking_vectors[rows], self.catalogue.counters[rows]
        logits = self.ranker.pool_logits(history, mask, tf.constant(shown[None]), tf.constant(counters[None]))
        return np.asarray(tf.sigmoid(logits))[0]

    def _ranked(self, clicks: Vectors, shown: Vectors, mask: Any, counters: Vectors | None) -> Vectors:
        if not len(shown):
            return np.zeros(0, np.float32)
        history, history_mask = _history(clicks, self.ranker.news.dimension)
        live = None if counters is None else tf.constant(counters[None])
        logits = self.ranker.click_logits(
            history, history_mask, tf.constant(shown[None]), tf.constant(mask[None]), live
        )
        return np.asarray(tf.sigmoid(logits))[0]


def _may_be_shown(catalogue: Catalogue, limit: float | None) -> npt.NDArray[np.bool_]:
    """Articles that are published, not withdrawn and, with an age limit, dated and not stale: bool [N]."""
    counters = dict(zip(COUNTERS, catalogue.counters.T, strict=True))
    age = counters["age_hours"]
    shown = (age >= 0) & ~np.asarray(catalogue.withdrawn)
    if limit is not None:
        timed = (counters["views"] > 0) | (age != 0)
        shown &= timed & ((age <= np.float32(limit)) | (counters["clicks_24h"] >= STILL_READ))
    return shown


def _history(clicks: Vectors, dimension: int) -> tuple[tf.Tensor, tf.Tensor]:
    """A history as a batch of one row, padded to two clicks: Keras warns about attention to a single one."""
    room = np.zeros((max(2, len(clicks)), dimension), np.float32)
    room[: len(clicks)] = clicks
    mask = np.arange(len(room)) < len(clicks)
    return tf.constant(room[None]), tf.constant(mask[None])


def _encode(encoder: Any, titles: Sequence[str]) -> Vectors:
    if not titles:
        return np.zeros((0, encoder.dimension), np.float32)
    return np.asarray(encoder(tf.constant(list(titles))))


def _titles(text: bytes) -> list[str]:
    lines = text.decode("utf-8", "replace").split("\n")
    return [line.strip() for line in lines if line.strip()]


def _number(text: bytes) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return min(number, LARGEST_NUMBER) if 0 <= number < float("inf") else 0.0


def _stack(name: str, rows: list[Any], width: int | None) -> npt.NDArray[Any]:
    """Rows of different lengths as one array, with the padding that the graph uses."""
    dtype: Any = object if name in _STRINGS else bool if name == "known" else np.float32
    arrays = [np.array(row, dtype) for row in rows]
    shape = np.max([array.shape for array in arrays], axis=0).astype(int).tolist()
    if width is not None:
        shape[0] = width
    padding = b"" if name in _STRINGS else _PADDING.get(name, 0)
    filled = np.full((len(rows), *shape), padding, dtype)
    for number, array in enumerate(arrays):
        place: Any = (number, *(slice(size) for size in array.shape))
        filled[place] = array
    return filled
