"""`genre profile`: what readers of a run like, their clicks weighted as its user tower weights them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import Article, ArticleTable
from genre_tf.evaluation.run_models import open_run
from genre_tf.evaluation.scoring import TwoTowerScorer
from genre_tf.generation.profile import Click, Profile, TitleWords, profile
from genre_tf.generation.safety import SafetyList
from genre_tf.models.checkpoint import CACHE_FOLDER, load_two_tower

Histories = Mapping[str, Sequence[str]]
"""Reader -> ids of their clicks, oldest first."""


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
        scorer = TwoTowerScorer(towers, towers.news.embed(towers.news.features(table, run / CACHE_FOLDER)))
        all_shares = scorer.click_shares(rows)
    words = TitleWords(*zip(*((article.title, article.abstract) for article in known.values()), strict=True))
    for (reader, of_reader), shares in zip(clicks.items(), all_shares, strict=True):
        weighed = [
            Click(one.news_id, one.title, one.category, one.subcategory, share)
            for one, share in zip(of_reader, shares.tolist(), strict=True)
        ]
        unknown = sum(news_id not in known for news_id in histories[reader])
        yield reader, profile(weighed, words, safety, unknown)
