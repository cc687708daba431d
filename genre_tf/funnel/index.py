"""The articles of a version inside its graph: ids, titles, vectors of both stages, counters.

Everything that `genre refresh` rewrites is in variables of open length and one text file, not in constants of
the graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.funnel.parsing import clean_text
from genre_tf.funnel.rules import NO_CATEGORY, NO_LIMIT, exploration_noise, is_new, may_be_shown
from genre_tf.funnel.search import (
    EXCLUDED,
    Changed,
    ExactIndex,
    ExactQueries,
    PartitionedIndex,
    PartitionedOptions,
    PartitionedQueries,
    among,
    open_variable,
    reader_pairs,
)

IDS_FILE = "news_ids.txt"
"""Name of the asset with one id per line."""

_MOST_NEW = 2_000  # limits the new articles of a draw: each costs every exploring answer one dot product
_KEY_BUCKETS = 2**62  # so many that different titles of a pool have different keys in practice


@dataclass(frozen=True)
class Catalogue:
    """All data of N - 1 articles in N rows; row 0 is the padding article, which also stands for unknown ones.

    The strings and vectors of row 0 are empty and zeros.
    """

    news_ids: list[str]
    titles: list[str]
    texts: list[str]  # title and abstract, from which an answer may be written
    retrieval_vectors: npt.NDArray[np.float32]  # [N, D], from the two-tower model
    ranking_vectors: npt.NDArray[np.float32]  # [N, R], from the ranker
    counters: npt.NDArray[np.float32]  # [N, 9], the columns of `COUNTERS`; the age is negative under embargo
    categories: Sequence[str] = ()  # "" if unknown; default: all unknown
    withdrawn: npt.NDArray[np.bool_] | None = None  # [N], never shown again; default: none

    def __post_init__(self) -> None:
        if not self.categories:
            object.__setattr__(self, "categories", [""] * len(self.news_ids))
        if self.withdrawn is None:
            object.__setattr__(self, "withdrawn", np.zeros(len(self.news_ids), bool))


class Live(NamedTuple):
    """Current counters that come with a request."""

    rows: tf.Tensor  # int64 [B, W], the articles of the counters, without repetitions; 0 for padding
    counters: tf.Tensor  # float32 [B, W, 9]
    bias: tf.Tensor  # float32 [B, W], the term that they add to an article's score


class Found(NamedTuple):
    """The results of a search."""

    rows: tf.Tensor  # int64 [B, L], best first
    real: tf.Tensor  # bool [B, L], False for padding
    counters: tf.Tensor  # float32 [B, L, 9], from the request if it has counters of the article


class ArticleIndex(tf.Module):
    """Look-up and search of articles inside the graph.

    Every article can be in a history and can be a candidate; a search finds only those that may be shown, and
    none older than `max_age_hours` that is no longer clicked. The bias, float32 [N], is the term that each
    article's counters add to its score: one more component of its vector. The ids file is written here and
    becomes an asset of the SavedModel. A partitioned index searches a part of the pool; None: exact search.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        bias: npt.NDArray[np.float32],
        ids_file: Path,
        max_age_hours: float | None = None,
        partitioned: PartitionedOptions | None = None,
    ) -> None:
        super().__init__(name="article_index")
        # TensorFlow accepts no empty lines, so row 0 has no line: an article's row is its line number plus 1.
        ids_file.write_text("".join(f"{news_id}\n" for news_id in catalogue.news_ids[1:]), encoding="utf-8")
        lines = tf.lookup.TextFileInitializer(
            str(ids_file),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.line_of_id = tf.lookup.StaticHashTable(lines, default_value=-1)
        titles = clean_text(tf.constant(catalogue.titles))
        # Articles with the same title have the same key; each one without a title has a key of its own.
        own, stripped = -1 - tf.range(tf.size(titles, tf.int64)), tf.strings.strip(titles)
        keys = tf.where(stripped == "", own, _hashed(stripped)).numpy()
        order = np.argsort(keys, kind="stable")
        numbers = {name: number for number, name in enumerate(sorted(set(catalogue.categories) - {""}))}
        category_numbers = [numbers.get(name, NO_CATEGORY) for name in catalogue.categories]
        self.news_ids = open_variable(clean_text(tf.constant(catalogue.news_ids)), "news_ids")
        self.titles = open_variable(titles, "titles")
        self.title_keys = open_variable(keys, "title_keys")
        self.sorted_keys = open_variable(keys[order], "sorted_keys")
        self.rows_by_key = open_variable(order.astype(np.int64), "rows_by_key")
        self.ranking_vectors = open_variable(catalogue.ranking_vectors, "ranking_vectors")
        self.counters = open_variable(catalogue.counters, "counters")
        self.categories = open_variable(clean_text(tf.constant(list(catalogue.categories))), "categories")
        self.category_numbers = open_variable(np.array(category_numbers, np.int32), "category_numbers")
        self.withdrawn = open_variable(np.asarray(catalogue.withdrawn), "withdrawn")
        limit = NO_LIMIT if max_age_hours is None else max_age_hours
        self.age_limit = tf.Variable(limit, trainable=False, name="age_limit", dtype=tf.float32)
        shown = may_be_found(catalogue, max_age_hours)
        self.new_rows = open_variable(_new_rows(catalogue, shown), "new_rows")
        vectors = np.column_stack([catalogue.retrieval_vectors, bias])  # stored only in `nearest`
        self.nearest: ExactIndex | PartitionedIndex = (
            ExactIndex(vectors, shown)
            if partitioned is None
            else PartitionedIndex(vectors, partitioned, shown)
        )

    def update(self, catalogue: Catalogue, bias: npt.NDArray[np.float32]) -> None:
        """Replace counters, withdrawals and biases (float32 [N]) of the same articles, for exact search."""
        shown = may_be_found(catalogue, float(self.age_limit.numpy()))
        self.counters.assign(catalogue.counters)
        self.withdrawn.assign(catalogue.withdrawn)
        self.new_rows.assign(_new_rows(catalogue, shown))
        self.nearest.update(bias, shown)

    def rows(self, news_ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Rows of ids: string [B, (ids)] -> int64 [B, (ids)]; 0 for unknown ids."""
        return news_ids.with_flat_values(self.line_of_id.lookup(news_ids.flat_values) + 1)

    def retrieval_vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """The two-tower model's vectors of rows: int64 [B, H] -> float32 [B, H, D]."""
        vectors = self.nearest.vectors(tf.reshape(rows, [-1]))[:, :-1]  # [B x H, D]
        return tf.reshape(vectors, [*tf.unstack(tf.shape(rows)), vectors.shape[1]])  # [B, H, D]

    def keys_of_rows(self, rows: tf.RaggedTensor) -> tf.RaggedTensor:
        """Title keys of rows, int64 [B, (rows)]."""
        return rows.with_flat_values(tf.gather(self.title_keys, rows.flat_values))

    def keys_of_titles(self, titles: tf.RaggedTensor) -> tf.RaggedTensor:
        """Title keys of titles: string [B, (titles)] -> int64 [B, (titles)]."""
        return titles.with_flat_values(_hashed(titles.flat_values))

    def ask(self, queries: tf.Tensor) -> ExactQueries | PartitionedQueries:
        """Queries for `search` and `explore`: float32 [B, D + 1]; the last component weighs the bias."""
        return self.nearest.ask(queries)

    def search(
        self,
        asked: ExactQueries | PartitionedQueries,
        read: tf.RaggedTensor,
        limit: int,
        live: Live | None = None,
    ) -> Found:
        """The articles with the greatest dot products that may be shown and were not read.

        `read` are title keys of everything that the reader has read, int64 [B, (keys)]; counters of `live`
        replace those of the index. L is the smaller of `limit` and the number of articles that the search
        examined.
        """
        changed = None if live is None else Changed(live.rows, live.bias, self._live_may_be_shown(live))
        rows, real = asked.best(self._excluded(read), limit, changed)
        counters = tf.gather(self.counters, rows)
        if live is not None:
            named, place = _find(live.rows, rows)
            # One more row, so that there is a row to gather if the request names no articles.
            of_live = tf.gather(tf.pad(live.counters, [[0, 0], [0, 1], [0, 0]]), place, batch_dims=1)
            counters = tf.where(named[:, :, None], of_live, counters)
        return Found(rows, real, counters)

    def explore(
        self,
        asked: ExactQueries | PartitionedQueries,
        read: tf.RaggedTensor,
        keys: tf.Tensor,
        live: Live | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One new article for each reader, drawn from a softmax of the dot products without the bias.

        The keys, int64 [B], determine the draw; the rest as in `search`.

        Returns:
            Row int64 [B], its counters float32 [B, 9], and bool [B], whether an article was found.
        """
        rows = tf.repeat(self.new_rows.value()[None], tf.shape(keys)[0], axis=0)  # [B, F]
        fresh = tf.ones_like(rows, tf.bool)
        counters = tf.gather(self.counters, rows)
        if live is not None:
            of_live = self._live_may_be_shown(live) & is_new(live.counters)
            fresh = tf.concat([fresh & ~_find(live.rows, rows)[0], of_live], axis=1)
            rows = tf.concat([rows, live.rows], axis=1)
            counters = tf.concat([counters, live.counters], axis=1)
        pairs = reader_pairs(rows)
        fresh &= ~among(pairs, self._excluded(read), tf.shape(rows))
        drawn = asked.products(rows) + exploration_noise(keys, rows)
        drawn = tf.where(fresh, drawn, EXCLUDED)
        # One more column, so that there is a column to choose if no article is new.
        drawn = tf.pad(drawn, [[0, 0], [0, 1]], constant_values=EXCLUDED)
        rows = tf.pad(rows, [[0, 0], [0, 1]])
        counters = tf.pad(counters, [[0, 0], [0, 1], [0, 0]])
        place = tf.argmax(drawn, axis=1)
        chosen = [tf.gather(values, place, batch_dims=1) for values in (rows, counters)]
        return chosen[0], chosen[1], tf.reduce_max(drawn, axis=1) > EXCLUDED / 2

    def _live_may_be_shown(self, live: Live) -> tf.Tensor:
        return (
            (live.rows > 0)
            & may_be_shown(live.counters, self.age_limit)
            & ~tf.gather(self.withdrawn, live.rows)
        )

    def _excluded(self, read: tf.RaggedTensor) -> tf.Tensor:
        """Pairs of (reader, row), int64 [excluded, 2]: every row whose title was read, and row 0."""
        keys = read.flat_values
        first = tf.searchsorted(self.sorted_keys, keys, side="left", out_type=tf.int64)
        behind = tf.searchsorted(self.sorted_keys, keys, side="right", out_type=tf.int64)
        found = tf.ragged.range(first, behind)  # [keys, (rows of this title)]
        readers = tf.gather(read.value_rowids(), found.value_rowids())
        rows = tf.gather(self.rows_by_key, found.flat_values)
        everyone = tf.range(read.nrows())
        return tf.stack(
            [tf.concat([everyone, readers], 0), tf.concat([tf.zeros_like(everyone), rows], 0)], axis=1
        )


def read_catalogue(values: Mapping[str, Any]) -> Catalogue:
    """The articles of an index, from the values of its variables; their texts contain only the titles."""
    names = ("news_ids", "titles", "categories")
    news_ids, titles, categories = (
        [text.decode("utf-8") for text in np.asarray(values[name])] for name in names
    )
    ranking_vectors, counters, withdrawn = (
        np.asarray(values[name]) for name in ("ranking_vectors", "counters", "withdrawn")
    )
    if "nearest.matrix" in values:
        vectors = np.asarray(values["nearest.matrix"])[:, : len(news_ids)].T  # a view, not a copy
    else:
        blocks, places = (np.asarray(values[f"nearest.{name}"]) for name in ("blocks", "places"))
        vectors = blocks.reshape(-1, blocks.shape[-1])[places]
    vectors = vectors[:, :-1]  # the last component is the bias
    return Catalogue(news_ids, titles, titles, vectors, ranking_vectors, counters, categories, withdrawn)


def may_be_found(catalogue: Catalogue, max_age_hours: float | None) -> npt.NDArray[np.bool_]:
    """Which articles of a catalogue a search may find: bool [N]; see `may_be_shown`."""
    limit = NO_LIMIT if max_age_hours is None else max_age_hours
    shown = may_be_shown(catalogue.counters, limit) & ~np.asarray(catalogue.withdrawn)
    shown[0] = False
    return np.asarray(shown)


def _new_rows(catalogue: Catalogue, shown: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Rows of new articles that may be shown, int64 [F]; of more than `_MOST_NEW` the youngest."""
    rows = np.flatnonzero(shown & is_new(catalogue.counters))
    youngest = np.argsort(catalogue.counters[rows, 2], kind="stable")[:_MOST_NEW]
    return np.sort(rows[youngest]).astype(np.int64)


def _find(named: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether and where rows are in `named`: int64 [B, W] and [B, L] -> bool [B, L] and int64 [B, L]."""
    named = tf.pad(named, [[0, 0], [0, 1]])  # so that there is at least one
    order = tf.argsort(named, axis=1)
    in_order = tf.gather(named, order, batch_dims=1)
    place = tf.minimum(tf.searchsorted(in_order, rows), tf.shape(named)[1] - 1)
    found = (tf.gather(in_order, place, batch_dims=1) == rows) & (rows > 0)
    return found, tf.where(found, tf.gather(order, place, batch_dims=1), 0)


def _hashed(titles: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(titles, _KEY_BUCKETS)
