"""A tiny log with pools: three days of news, and readers who click by topic and by how good an article is."""

import numpy as np
import pytest

from genre_tf.config import DataConfig, NewsConfig, OptimizerConfig, RetrievalConfig, RunConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import COUNTERS
from genre_tf.data.moment_pool import MomentPool, moment
from genre_tf.models.checkpoint import news_encoder_of
from genre_tf.models.news_encoder import Categories, NewsEncoder
from genre_tf.training.stage_data import StageData

CONFIG = RunConfig(
    data=DataConfig(max_history=5),
    news=NewsConfig(backbone="tiny", max_title_tokens=8, interest_dimension=0),
    retrieval=RetrievalConfig(
        heads=2,
        dimension=16,
        pool_negatives=20,
        optimizer=OptimizerConfig(steps=4, batch_size=32, validate_every=4),
    ),
)
DAYS, ARTICLES_A_DAY, IMPRESSIONS, LEARNED = 3, 60, 600, 450
FIRST = 20_150 * 86_400  # a midnight, in seconds since 1970
TABLE = ArticleTable(
    [Article(f"N{n}", "abc"[n % 3], "", f"goal {n} late", "") for n in range(1, 1 + DAYS * ARTICLES_A_DAY)]
)


def new_news_encoder(reduced_dimension: int = 0) -> NewsEncoder:
    categories = Categories.of(TABLE.categories)
    return news_encoder_of("tiny", CONFIG.news, categories, reduced_dimension=reduced_dimension)


class PoolWorld(StageData):
    """The log with a tiny backbone, in a run folder that is empty."""

    def news_encoder(self, reduced_dimension: int = 0) -> NewsEncoder:
        return new_news_encoder(reduced_dimension)


@pytest.fixture(scope="session")
def pool_world(tmp_path_factory: pytest.TempPathFactory) -> PoolWorld:
    log, run = _log(), tmp_path_factory.mktemp("run")
    features = new_news_encoder().features(TABLE)
    return PoolWorld(TABLE, log[:LEARNED], log[LEARNED:], features, CONFIG, run)


def _log() -> list[ImpressionExample]:
    """Each shows 6 of the 60 articles of its day."""
    random = np.random.default_rng(3)
    good = random.normal(size=len(TABLE))
    log = []
    for number in range(IMPRESSIONS):
        seconds = FIRST + number * (DAYS * 86_400 // IMPRESSIONS)
        there = np.arange(1, ARTICLES_A_DAY + 1) + (seconds - FIRST) // 86_400 * ARTICLES_A_DAY
        likes = random.integers(0, 3)
        shown = random.choice(there, 6, replace=False)
        history = random.choice(there[there % 3 == likes], random.integers(0, 4), replace=False)
        logits = 1.5 * good[shown] + 1.5 * (shown % 3 == likes) - 3.0
        log.append(
            ImpressionExample(
                impression=number,
                user_id="U",
                time_hours=seconds / 3600,
                history=history.astype(np.int32),
                candidates=shown.astype(np.int32),
                labels=(random.random(6) < 1 / (1 + np.exp(-logits))).astype(np.float32),
                counters=np.zeros((6, len(COUNTERS)), np.float32),
            )
        )
    pool = MomentPool(log, len(TABLE))
    for one in log:
        one.counters = pool.before(one.candidates, moment(one))
    return log
