"""`assets.extra/articles.jsonl`: the articles of a version, read without TensorFlow."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from genre_tf.contract import ARTICLES_FILE, ASSETS_FOLDER
from genre_tf.errors import InputError

if TYPE_CHECKING:
    from genre_tf.funnel.index import Catalogue


@dataclass(frozen=True, slots=True)
class IndexedArticle:
    """An article of a version; its counters, in the order of `COUNTERS`, are those of the index."""

    news_id: str
    title: str
    category: str
    text: str  # title and abstract
    counters: tuple[float, ...]
    withdrawn: bool = False


def write_articles(version: Path, catalogue: "Catalogue") -> None:
    """Write the articles of a version, one JSON object a line."""
    columns = (
        catalogue.news_ids,
        catalogue.titles,
        catalogue.categories,
        catalogue.texts,
        catalogue.counters.tolist(),
        [] if catalogue.withdrawn is None else catalogue.withdrawn.tolist(),
    )
    with (version / ASSETS_FOLDER / ARTICLES_FILE).open("w", encoding="utf-8") as file:
        for news_id, title, category, text, counters, gone in islice(zip(*columns, strict=True), 1, None):
            rounded = tuple(float(f"{number:.6g}") for number in counters)
            line = asdict(IndexedArticle(news_id, title, category, text, rounded, gone))
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_articles(version: Path) -> Iterator[IndexedArticle]:
    """The articles of a version, in the order of its index.

    Raises:
        InputError: the version has no such file, or it is damaged.
    """
    path = version / ASSETS_FOLDER / ARTICLES_FILE
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield IndexedArticle(**json.loads(line))
    except FileNotFoundError:
        raise InputError(f"there is no {path}: an earlier version wrote this export; export again") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): export again") from None
