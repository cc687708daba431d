"""`genre profile`: what readers of a run like, their clicks weighted as its user tower weights them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article, ArticleTable, Impression, Split
from genre_tf.data.mind import read_split
from genre_tf.data.records import read_articles
from genre_tf.errors import InputError
from genre_tf.evaluation.run_models import open_run
from genre_tf.evaluation.scoring import TwoTowerScorer
from genre_tf.generation.profile import Click, Profile, TitleWords, profile
from genre_tf.generation.safety import SafetyList
from genre_tf.models.checkpoint import CACHE_FOLDER, load_two_tower
from genre_tf.models.embedding import embed_articles

Histories = Mapping[str, Sequence[str]]
"""Reader -> ids of their clicks, oldest first."""


@dataclass(frozen=True)
class KnownArticles:
    """The articles and histories that a profile can use.

    Args:
        articles: the articles of the run's training, and of the log if one was given.
        histories: histories of the log's readers; empty without a log.
    """

    articles: Mapping[str, Article]
    histories: Histories


def known_articles(run: Path, data: Path | None, split: str, max_bad_rows: int = 0) -> KnownArticles:
    """Read the articles of a run and, if given, of a log.

    Args:
        run: the run folder.
        data: folder of a MIND-format data set, or None.
        split: folder of the split in it.
        max_bad_rows: number of rows of the split that may be skipped.

    Raises:
        InputError: something cannot be read.
    """
    open_run(run)
    prepared = {article.news_id: article for article in read_articles(run / "prepared").articles[1:]}
    if data is None:
        return KnownArticles(prepared, {})
    log = read_split(data, split, max_bad_rows)
    return KnownArticles({**prepared, **log.articles}, newest_histories(log))


def newest_histories(log: Split) -> Histories:
    """Each reader's history at their newest impression, with readers in the order of the log."""
    newest: dict[str, Impression] = {}
    for impression in log.impressions:
        earlier = newest.get(impression.user_id)
        if earlier is None or impression.time >= earlier.time:
            newest[impression.user_id] = impression
    return {reader: impression.history for reader, impression in newest.items()}


def articles_of_titles(titles: Sequence[str]) -> dict[str, Article]:
    """Articles with nothing but titles, with the numbers from 1 as ids."""
    return {str(place): Article(str(place), "", "", title, "") for place, title in enumerate(titles, 1)}


def profiles(
    run: Path, known: Mapping[str, Article], histories: Histories, safety: SafetyList | None = None
) -> Iterator[tuple[str, Profile]]:
    """Profiles of readers.

    Args:
        run: the run folder.
        known: articles by id; clicks on other articles are left out and counted.
        histories: histories of the readers.
        safety: words of titles that it rejects are not shown.

    Yields:
        Reader and profile, in the given order, from the newest clicks that the run's models read.

    Raises:
        InputError: the run has no trained towers.
    """
    newest = open_run(run).data.max_history
    clicks = {
        reader: [known[news_id] for news_id in history if news_id in known][-newest:]
        for reader, history in histories.items()
    }
    table = ArticleTable(article for of_reader in clicks.values() for article in of_reader)
    rows = [table.rows([article.news_id for article in of_reader]) for of_reader in clicks.values()]
    towers = load_two_tower(run)
    all_shares: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
    if len(table) > 1:  # unless no reader has clicked anything
        scorer = TwoTowerScorer(towers, embed_articles(towers.encoder, table, run / CACHE_FOLDER))
        all_shares = scorer.click_shares(rows)
    words = TitleWords(*zip(*((article.title, article.abstract) for article in known.values()), strict=True))
    for (reader, of_reader), shares in zip(clicks.items(), all_shares, strict=True):
        weighed = [
            Click(one.news_id, one.title, one.category, one.subcategory, share)
            for one, share in zip(of_reader, shares.tolist(), strict=True)
        ]
        unknown = sum(news_id not in known for news_id in histories[reader])
        yield reader, profile(weighed, words, safety, unknown)


def check_reader(reader: str, histories: Histories) -> None:
    """Check that a log contains a reader.

    Raises:
        InputError: it does not.
    """
    if reader not in histories:
        some = ", ".join(list(histories)[:3])
        raise InputError(f"the log has no reader {reader!r}; it has {len(histories)} readers, such as {some}")
