"""Articles, impressions and the table that gives every article its row number."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.lines import Fault
from genre_tf.data.signals import Signals
from genre_tf.errors import InputError

TEXT_FIELDS = ("news_id", "category", "subcategory", "title", "abstract")
"""The fields of an article that are text, in the order of the columns of `news.tsv`."""

PUBLISHED_UNKNOWN = int(np.iinfo(np.int64).min)
"""Marks an unknown publishing time in `ArticleTable.published`."""


@dataclass(frozen=True, slots=True)
class Article:
    """One news article; unknown texts are empty strings.

    Args:
        news_id: unique in a catalogue.
        category: such as `sports`.
        subcategory: such as `soccer`.
        title: what readers see in a list.
        abstract: the sentences below the title.
        published: naive, in whole seconds, on the clock of the log; later than now for an article under
            embargo; None if it is unknown.
        withdrawn: whether the newsroom has withdrawn the article.
    """

    news_id: str
    category: str
    subcategory: str
    title: str
    abstract: str
    published: datetime | None = None
    withdrawn: bool = False

    @property
    def has_status(self) -> bool:
        """Whether the article has a known publishing time or a state."""
        return self.published is not None or self.withdrawn


@dataclass(frozen=True, slots=True)
class Impression:
    """The list that one reader was shown at one time, and the clicks on it."""

    impression_id: str  # unique within a log
    user_id: str
    time: datetime  # naive, as MIND writes it
    history: tuple[str, ...]  # articles that the reader clicked before, oldest first; empty for a new reader
    candidates: tuple[str, ...]  # articles shown, in the order of the log
    clicked: tuple[bool, ...] | None  # one flag per candidate; None for a log without labels
    signals: Signals | None = None  # of articles of history and candidates; None without such a column


@dataclass(frozen=True)
class Split:
    """One folder of a data set: its articles, its log, and the faults of the rows that were skipped."""

    name: str
    articles: dict[str, Article]
    impressions: list[Impression]
    faults: list[Fault]
    bad_rows: int = 0  # number of these rows; if there are very many, not all faults are listed

    @property
    def labelled(self) -> bool:
        """Whether the log says which candidates were clicked; all of its rows are labelled, or none."""
        return bool(self.impressions) and self.impressions[0].clicked is not None


def write_articles(path: Path, articles: Sequence[Article]) -> None:
    """Writes articles, in their order, as an Arrow IPC file; equal articles give equal bytes."""
    import pyarrow as pa

    columns = {name: pa.array([getattr(one, name) for one in articles], pa.string()) for name in TEXT_FIELDS}
    columns["published"] = pa.array([one.published for one in articles], pa.timestamp("s"))
    columns["withdrawn"] = pa.array([one.withdrawn for one in articles], pa.bool_())
    write_arrow(path, columns)


def write_arrow(path: Path, columns: dict[str, Any]) -> None:
    """Writes Arrow arrays as the one batch of an IPC file."""
    import pyarrow as pa

    batch = pa.RecordBatch.from_pydict(columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read_article_file(path: Path) -> list[Article]:
    """Reads what `write_articles` wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    import pyarrow as pa

    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            columns = reader.get_batch(0).to_pydict()
        names = (*TEXT_FIELDS, "published", "withdrawn")
        return [Article(*values) for values in zip(*(columns[name] for name in names), strict=True)]
    except (OSError, KeyError, pa.ArrowException):
        raise damaged(path) from None


def damaged(path: Path) -> InputError:
    """The error for a file of a prepared folder that is missing or has changed."""
    return InputError(f"{path} is missing or damaged; run `genre prepare` again with --overwrite")


def _texts(field: str) -> "cached_property[list[str]]":
    """A text of all articles of a table, in the order of their rows; empty where there is none."""
    return cached_property(lambda table: [getattr(article, field) for article in table.articles])


class ArticleTable:
    """Gives every article a row number; row 0 is the padding of batches and every unknown article.

    Args:
        articles: in the order of their rows, without the padding article; of equal ids the first wins.
    """

    def __init__(self, articles: Iterable[Article] = ()) -> None:
        by_id = {"": Article("", "", "", "", "")}
        for article in articles:
            by_id.setdefault(article.news_id, article)
        self.articles: list[Article] = list(by_id.values())
        self._row_of = {news_id: row for row, news_id in enumerate(by_id)}

    @classmethod
    def of(cls, *sources: Split | Iterable[Article]) -> "ArticleTable":
        """Builds one table from several splits or lists of articles; of equal ids the first wins.

        Rows of a first source do not change when more sources follow it.
        """
        lists = (source.articles.values() if isinstance(source, Split) else source for source in sources)
        return cls(article for articles in lists for article in articles)

    def __len__(self) -> int:
        return len(self.articles)

    def row(self, news_id: str) -> int:
        """Row of an article; 0 if it is unknown."""
        return self._row_of.get(news_id, 0)

    def rows(self, news_ids: Sequence[str]) -> npt.NDArray[np.int32]:
        """Rows of n articles: int32 [n]; 0 for each unknown id."""
        return np.fromiter(map(self._row_of.get, news_ids, repeat(0)), np.int32, len(news_ids))

    news_ids = _texts("news_id")
    titles = _texts("title")
    abstracts = _texts("abstract")
    categories = _texts("category")
    subcategories = _texts("subcategory")

    @cached_property
    def texts(self) -> list[str]:
        """Title and abstract of each article as one line, separated by a full stop."""
        texts = []
        for title, abstract in zip(self.titles, self.abstracts, strict=True):
            title = " ".join(title.split())
            stop = "" if not title or title[-1] in ".!?。！？" else "."
            texts.append(f"{title}{stop} {' '.join(abstract.split())}".strip())
        return texts

    @cached_property
    def known_ids(self) -> dict[str, str]:
        """The ids of all articles except the padding one, each mapped to itself; see `parse_behaviors`."""
        return {news_id: news_id for news_id in self.news_ids[1:]}

    @cached_property
    def published(self) -> npt.NDArray[np.int64]:
        """Publishing times in the order of the rows: int64 [rows], seconds since 1970; `PUBLISHED_UNKNOWN`
        for the padding article and if the time is unknown.
        """
        times = [article.published for article in self.articles]
        return np.array(times, "datetime64[s]").astype(np.int64)  # NumPy's "not a time" is the smallest int64

    @cached_property
    def withdrawn(self) -> npt.NDArray[np.bool_]:
        """Whether each article was withdrawn, in the order of the rows: bool [rows]."""
        return np.array([article.withdrawn for article in self.articles], np.bool_)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every field of every row; equal tables have equal fingerprints."""
        digest = hashlib.sha256()
        for article in self.articles:
            for name in TEXT_FIELDS:
                encoded = getattr(article, name).encode()
                # The length before each field keeps "ab"+"c" apart from "a"+"bc".
                digest.update(len(encoded).to_bytes(8, "little"))
                digest.update(encoded)
        # Only if any time or state is known, so that other tables keep the fingerprint of older versions.
        if any(article.has_status for article in self.articles):
            digest.update(b"published, withdrawn")
            digest.update(self.published.astype("<i8").tobytes())
            digest.update(self.withdrawn.tobytes())
        return digest.hexdigest()
