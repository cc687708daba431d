"""The articles of a version, baked into its graph: ids, titles, vectors of both stages, counters.

What `genre refresh` will rewrite without training lies in variables of open length and one text file, and not
in constants of the graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.export.exact_search import ExactIndex
from genre_tf.export.open_variables import open_variable
from genre_tf.export.parsing import clean_text
from genre_tf.export.partitioned_index import PartitionedIndex, PartitionedOptions
from genre_tf.export.selection import NO_CATEGORY

IDS_FILE = "news_ids.txt"
"""Name of the asset that holds an id a line."""

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
        counters: float32 [N, 3]: clicks, views, age in hours.
        categories: of N rows, "" where unknown; none at all if left out.
    """

    news_ids: list[str]
    titles: list[str]
    texts: list[str]
    retrieval_vectors: npt.NDArray[np.float32]
    ranking_vectors: npt.NDArray[np.float32]
    counters: npt.NDArray[np.float32]
    categories: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.categories:
            object.__setattr__(self, "categories", [""] * len(self.news_ids))
        vectors = (self.retrieval_vectors, self.ranking_vectors)
        parts = (self.titles, self.texts, *vectors, self.counters, self.categories)
        if {len(part) for part in parts} != {len(self.news_ids)} or not self.news_ids or self.news_ids[0]:
            raise ValueError(
                "a catalogue needs equally many rows in all its parts, and row 0 for the padding"
            )


class ArticleIndex(tf.Module):
    """Look-up and search of articles inside the graph.

    Args:
        catalogue: the articles.
        ids_file: written here; becomes an asset of the SavedModel.
        max_age_hours: articles first shown longer ago are known, and not found by a search; None: all are.
        partitioned: how to search in a part of the pool alone; None: exactly.
    """

    def __init__(
        self,
        catalogue: Catalogue,
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
        young = None if max_age_hours is None else ~older_than(catalogue.counters, max_age_hours)
        vectors = catalogue.retrieval_vectors  # held by the search alone
        self.nearest: ExactIndex | PartitionedIndex = (
            ExactIndex(vectors, young)
            if partitioned is None
            else PartitionedIndex(vectors, partitioned, young)
        )

    def rows(self, news_ids: tf.RaggedTensor) -> tf.RaggedTensor:
        """Rows of ids: string [B, (ids)] -> int64 [B, (ids)]; 0 for an unknown one."""
        return news_ids.with_flat_values(self.line_of_id.lookup(news_ids.flat_values) + 1)

    def retrieval_vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """The two-tower's vectors of rows: int64 [B, H] -> float32 [B, H, D]."""
        vectors = self.nearest.vectors(tf.reshape(rows, [-1]))  # [B x H, D]
        return tf.reshape(vectors, [*tf.unstack(tf.shape(rows)), vectors.shape[1]])  # [B, H, D]

    def keys_of_rows(self, rows: tf.RaggedTensor) -> tf.RaggedTensor:
        """Title keys of rows, int64 [B, (rows)]: articles of one title share a key."""
        return rows.with_flat_values(tf.gather(self.title_keys, rows.flat_values))

    def keys_of_titles(self, titles: tf.RaggedTensor) -> tf.RaggedTensor:
        """Title keys of titles as text, int64 [B, (titles)]."""
        return titles.with_flat_values(_hashed(titles.flat_values))

    def search(self, readers: tf.Tensor, read: tf.RaggedTensor, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The articles with the greatest dot product, without what was read.

        Args:
            readers: float32 [B, D].
            read: title keys of everything the reader has read, int64 [B, (keys)]; of any length.
            limit: most articles to find.

        Returns:
            Rows int64 [B, L], best first, and bool [B, L], which of them are results; L is `limit` or what
            the search has looked at, whichever is smaller.
        """
        return self.nearest.search(readers, self._excluded(read), limit)

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
    ranking_vectors, counters = (np.asarray(values[name]) for name in ("ranking_vectors", "counters"))
    vectors = _vectors(values, len(news_ids))
    return Catalogue(news_ids, titles, titles, vectors, ranking_vectors, counters, categories)


def _vectors(values: Mapping[str, Any], articles: int) -> npt.NDArray[np.float32]:
    """What a search holds, float32 [N, D]; columns of a matrix stay where they are."""
    if "nearest.matrix" in values:
        return np.asarray(values["nearest.matrix"])[:, :articles].T
    blocks, places = (np.asarray(values[f"nearest.{name}"]) for name in ("blocks", "places"))
    return blocks.reshape(-1, blocks.shape[-1])[places]


def older_than(counters: npt.NDArray[np.float32], hours: float) -> npt.NDArray[np.bool_]:
    """Which articles were first shown longer ago, bool [N]; one that nobody was shown yet has no age."""
    _, views, age_hours = counters.T
    return (views > 0) & (age_hours > hours)


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
