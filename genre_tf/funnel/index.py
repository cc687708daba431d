"""The articles of a version, baked into its graph: ids, titles, vectors of both stages, counters.

What `genre refresh` will rewrite without training lies in variables of open length and one text file, and not
in constants of the graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.funnel.exact_search import EXCLUDED, Changed, ExactIndex, ExactQueries, among, reader_pairs
from genre_tf.funnel.freshness import NO_LIMIT, exploration_noise, is_new, may_be_shown
from genre_tf.funnel.open_variables import open_variable
from genre_tf.funnel.parsing import clean_text
from genre_tf.funnel.partitioned_index import PartitionedIndex, PartitionedOptions, PartitionedQueries
from genre_tf.funnel.selection import NO_CATEGORY

IDS_FILE = "news_ids.txt"
"""Name of the asset that holds an id a line."""

_MOST_NEW = 2_000  # new articles that one is drawn from: each costs every exploring answer a dot product
_KEY_BUCKETS = 2**62  # wide enough that two titles of a pool never share a key


@dataclass(frozen=True)
class Catalogue:
    """Everything that is known of the articles; row 0 is the padding and unknown article.

    Attributes:
        news_ids: of N rows, the first "".
        titles: of N rows, the first "".
        texts: of N rows, the first ""; title and abstract, what an answer may be written from.
        retrieval_vectors: float32 [N, D], of the two-tower; row 0 is zeros.
        ranking_vectors: float32 [N, R], of the ranker; row 0 is zeros.
        counters: float32 [N, 9], the columns of `COUNTERS`; under embargo, the age is negative.
        categories: of N rows, "" where unknown; none at all if left out.
        withdrawn: bool [N], what is known and never shown again; nothing if left out.
    """

    news_ids: list[str]
    titles: list[str]
    texts: list[str]
    retrieval_vectors: npt.NDArray[np.float32]
    ranking_vectors: npt.NDArray[np.float32]
    counters: npt.NDArray[np.float32]
    categories: Sequence[str] = ()
    withdrawn: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if not self.categories:
            object.__setattr__(self, "categories", [""] * len(self.news_ids))
        if self.withdrawn is None:
            object.__setattr__(self, "withdrawn", np.zeros(len(self.news_ids), bool))
        vectors = (self.retrieval_vectors, self.ranking_vectors)
        parts = (
            self.titles,
            self.texts,
            *vectors,
            self.counters,
            self.categories,
            np.asarray(self.withdrawn),
        )
        if {len(part) for part in parts} != {len(self.news_ids)} or not self.news_ids or self.news_ids[0]:
            raise ValueError(
                "a catalogue needs equally many rows in all its parts, and row 0 for the padding"
            )


class Live(NamedTuple):
    """Counters of the moment that come with a request.

    Attributes:
        rows: int64 [B, W], the articles that they are of, each once; 0 where there is none.
        counters: float32 [B, W, 9].
        bias: float32 [B, W], what they add to an article's score.
    """

    rows: tf.Tensor
    counters: tf.Tensor
    bias: tf.Tensor


class Found(NamedTuple):
    """What a search found.

    Attributes:
        rows: int64 [B, L], best first.
        real: bool [B, L], which of them are results.
        counters: float32 [B, L, 9], of the moment where the request brought some.
    """

    rows: tf.Tensor
    real: tf.Tensor
    counters: tf.Tensor


class ArticleIndex(tf.Module):
    """Look-up and search of articles inside the graph.

    Every article is known, to histories and as a candidate; a search finds those that may be shown.

    Args:
        catalogue: the articles.
        bias: float32 [N], what each article's counters add to its score: one more dimension of its vector.
        ids_file: written here; becomes an asset of the SavedModel.
        max_age_hours: older articles that are no longer read are not found by a search; None: all are.
        partitioned: how to search in a part of the pool alone; None: exactly.
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
        # Row 0 has no line, as TensorFlow takes no empty ones: an article's row is its line's number plus 1.
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
        keys = _title_keys(titles).numpy()
        order = np.argsort(keys, kind="stable")
        self.news_ids = open_variable(clean_text(tf.constant(catalogue.news_ids)), "news_ids")
        self.titles = open_variable(titles, "titles")
        self.title_keys = open_variable(keys, "title_keys")
        self.sorted_keys = open_variable(keys[order], "sorted_keys")
        self.rows_by_key = open_variable(order.astype(np.int64), "rows_by_key")
        self.ranking_vectors = open_variable(catalogue.ranking_vectors, "ranking_vectors")
        self.counters = open_variable(catalogue.counters, "counters")
        self.categories = open_variable(clean_text(tf.constant(list(catalogue.categories))), "categories")
        self.category_numbers = open_variable(_numbered(catalogue.categories), "category_numbers")
        self.withdrawn = open_variable(np.asarray(catalogue.withdrawn), "withdrawn")
        limit = NO_LIMIT if max_age_hours is None else max_age_hours
        self.age_limit = tf.Variable(limit, trainable=False, name="age_limit", dtype=tf.float32)
        shown = may_be_found(catalogue, max_age_hours)
        self.new_rows = open_variable(_newest_of(shown & is_new(catalogue.counters), catalogue), "new_rows")
        vectors = np.column_stack([catalogue.retrieval_vectors, bias])  # held by the search alone
        self.nearest: ExactIndex | PartitionedIndex = (
            ExactIndex(vectors, shown)
            if partitioned is None
            else PartitionedIndex(vectors, partitioned, shown)
        )

    def update(self, catalogue: Catalogue, bias: npt.NDArray[np.float32]) -> None:
        """Take other counters, biases and withdrawals of the same articles; exact search alone.

        Args:
            catalogue: of the N articles.
            bias: float32 [N].
        """
        shown = may_be_found(catalogue, float(self.age_limit.numpy()))
        self.counters.assign(catalogue.counters)
        self.withdrawn.assign(catalogue.withdrawn)
        self.new_rows.assign(_newest_of(shown & is_new(catalogue.counters), catalogue))
        self.nearest.update(bias, shown)

    def rows(self, news_ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Rows of ids: string [B, (ids)] -> int64 [B, (ids)]; 0 for an unknown one."""
        return news_ids.with_flat_values(self.line_of_id.lookup(news_ids.flat_values) + 1)

    def retrieval_vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """The two-tower's vectors of rows: int64 [B, H] -> float32 [B, H, D]."""
        vectors = self.nearest.vectors(tf.reshape(rows, [-1]))[:, :-1]  # [B x H, D]
        return tf.reshape(vectors, [*tf.unstack(tf.shape(rows)), vectors.shape[1]])  # [B, H, D]

    def keys_of_rows(self, rows: tf.RaggedTensor) -> tf.RaggedTensor:
        """Title keys of rows, int64 [B, (rows)]: articles of one title share a key."""
        return rows.with_flat_values(tf.gather(self.title_keys, rows.flat_values))

    def keys_of_titles(self, titles: tf.RaggedTensor) -> tf.RaggedTensor:
        """Title keys of titles as text, int64 [B, (titles)]."""
        return titles.with_flat_values(_hashed(titles.flat_values))

    def ask(self, queries: tf.Tensor) -> ExactQueries | PartitionedQueries:
        """What `search` and `explore` take: queries float32 [B, D + 1], the last the moment's weight."""
        return self.nearest.ask(queries)

    def search(
        self,
        asked: ExactQueries | PartitionedQueries,
        read: tf.RaggedTensor,
        limit: int,
        live: Live | None = None,
    ) -> Found:
        """The articles with the greatest dot product that may be shown, without what was read.

        Args:
            asked: what `ask` gave.
            read: title keys of everything the reader has read, int64 [B, (keys)]; of any length.
            limit: most articles to find.
            live: counters that the request brought: they replace those of the index.

        Returns:
            L is `limit` or what the search has looked at, whichever is smaller.
        """
        changed = None if live is None else Changed(live.rows, live.bias, self._live_may_be_shown(live))
        rows, real = asked.best(self._excluded(read), limit, changed)
        counters = tf.gather(self.counters, rows)
        if live is not None:
            named, place = _find(live.rows, rows)
            # One row more, so that there is one to gather where nothing is named.
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
        """One new article for each reader, drawn by their interest alone (a softmax of the dot products).

        Args:
            asked: what `ask` gave.
            read: as in `search`.
            keys: int64 [B], which the draw depends on.
            live: counters that the request brought.

        Returns:
            Row int64 [B], its counters float32 [B, 9], and bool [B], whether there is one.
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
        # One column more, so that there is something to choose where nothing is new.
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
        """Readers and rows, int64 [excluded, 2]: every row whose title was read, and row 0."""
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
    """The articles of an index; their texts are but their titles.

    Args:
        values: of its variables: `variable_values` of one that was made, `attached_values` of a SavedModel.

    Raises:
        KeyError: they are of another kind of index.
    """
    names = ("news_ids", "titles", "categories")
    news_ids, titles, categories = (
        [text.decode("utf-8") for text in np.asarray(values[name])] for name in names
    )
    ranking_vectors, counters, withdrawn = (
        np.asarray(values[name]) for name in ("ranking_vectors", "counters", "withdrawn")
    )
    vectors = _vectors(values, len(news_ids))[:, :-1]  # the last number is the bias
    return Catalogue(news_ids, titles, titles, vectors, ranking_vectors, counters, categories, withdrawn)


def _vectors(values: Mapping[str, Any], articles: int) -> npt.NDArray[np.float32]:
    """What a search holds, float32 [N, D]; columns of a matrix stay where they are."""
    if "nearest.matrix" in values:
        return np.asarray(values["nearest.matrix"])[:, :articles].T
    blocks, places = (np.asarray(values[f"nearest.{name}"]) for name in ("blocks", "places"))
    return blocks.reshape(-1, blocks.shape[-1])[places]


def may_be_found(catalogue: Catalogue, max_age_hours: float | None) -> npt.NDArray[np.bool_]:
    """Which articles of a catalogue a search may find, bool [N]; see `may_be_shown`."""
    limit = NO_LIMIT if max_age_hours is None else max_age_hours
    shown = may_be_shown(catalogue.counters, limit) & ~np.asarray(catalogue.withdrawn)
    shown[0] = False
    return np.asarray(shown)


def _newest_of(new: npt.NDArray[np.bool_], catalogue: Catalogue) -> npt.NDArray[np.int64]:
    """Rows of new articles, int64 [F]: of more than `_MOST_NEW` the youngest."""
    rows = np.flatnonzero(new)
    youngest = np.argsort(catalogue.counters[rows, 2], kind="stable")[:_MOST_NEW]
    return np.sort(rows[youngest]).astype(np.int64)


def _find(named: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where rows stand among those that a request names: int64 [B, W] and [B, L] -> bool, int64 [B, L]."""
    named = tf.pad(named, [[0, 0], [0, 1]])  # a last one, so that there is one
    order = tf.argsort(named, axis=1)
    in_order = tf.gather(named, order, batch_dims=1)
    place = tf.minimum(tf.searchsorted(in_order, rows), tf.shape(named)[1] - 1)
    found = (tf.gather(in_order, place, batch_dims=1) == rows) & (rows > 0)
    return found, tf.where(found, tf.gather(order, place, batch_dims=1), 0)


def _numbered(categories: Sequence[str]) -> npt.NDArray[np.int32]:
    """int32 [N]: equal categories have equal numbers, and an unknown one is none."""
    numbers = {name: number for number, name in enumerate(sorted(set(categories) - {""}))}
    return np.array([numbers.get(name, NO_CATEGORY) for name in categories], np.int32)


def _title_keys(titles: tf.Tensor) -> tf.Tensor:
    """int64 [N]; an article without title shares its key with no other."""
    own = -1 - tf.range(tf.size(titles, tf.int64))
    stripped = tf.strings.strip(titles)
    return tf.where(stripped == "", own, _hashed(stripped))


def _hashed(titles: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(titles, _KEY_BUCKETS)
