"""A refresh of a partitioned index: verified, published, and equal to the index of a full export."""

import random
import string
from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from genre_tf.config import NewsConfig, RunConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import COUNTERS
from genre_tf.export.contract_file import read_contract
from genre_tf.export.pool import build_catalogue
from genre_tf.export.publishing import publish, staged
from genre_tf.export.refreshing import Changes, refresh
from genre_tf.export.saved_model import attached_values
from genre_tf.export.servables import recommender_servable, write_version
from genre_tf.funnel.index import may_be_found, read_catalogue
from genre_tf.funnel.search import PartitionedIndex, PartitionedOptions, variable_values
from genre_tf.funnel.served_models import ServedModels
from genre_tf.models.checkpoint import news_encoder_of, ranker_of, two_tower_of
from genre_tf.models.news_encoder import Categories

SIZES = {"max_history": 20, "k": 5, "retrieve": 20}
FEW = PartitionedOptions(block=8, probes=4)
DICE = random.Random(11)


def article(news_id):
    words = ("".join(DICE.choices(string.ascii_lowercase, k=DICE.randint(3, 7))) for _ in range(6))
    return Article(news_id, "sports", "", " ".join(words), "")


OLD = [article(f"N{number}") for number in range(60)]
NEW = [article(f"X{number}") for number in range(30)]


@pytest.fixture(scope="module")
def towers():
    """Untrained towers that tell these articles apart, as trained ones do.

    Of the tiny BERT all texts have nearly the same vector, and what is standardised afterwards is rounding.
    """
    config = RunConfig(news=NewsConfig(backbone="tiny", trainable="last 1"))
    news = news_encoder_of("tiny", config.news, Categories.of(["sports"]))
    tokens = news.frozen.lower.embeddings.token.embeddings
    tokens.assign(np.random.default_rng(3).normal(size=tokens.shape))
    towers = two_tower_of(news, config), ranker_of(news.own_copy(), config)
    texts = tf.constant([one.title for one in OLD])
    for tower in towers:
        news = tower.news
        vectors = news.text_vectors(news.text_features(texts)).numpy()
        news.centre.assign(vectors.mean(axis=0))
        assert np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).min() > 0.1
    return towers


@pytest.fixture(scope="module")
def served(towers, tmp_path_factory):
    """MODELS with one version, which looks into 4 of its blocks."""
    folder = tmp_path_factory.mktemp("partitions")
    counters = np.random.default_rng(4).integers(0, 200, (len(OLD) + 1, len(COUNTERS))).astype(np.float32)
    counters[0] = 0
    catalogue = build_catalogue(ServedModels(*towers), ArticleTable(OLD), counters)
    servable = recommender_servable(ServedModels(*towers), catalogue, folder, **SIZES, partitioned=FEW)
    with staged(folder / "models" / servable.name) as version:
        write_version(servable, version, {}, (1,))
        publish(version)
    return folder / "models"


@pytest.fixture(scope="module")
def refreshed(served, tmp_path_factory):
    news = tmp_path_factory.mktemp("news") / "news.tsv"
    news.write_text("".join(f"{one.news_id}\tsports\t\t{one.title}\t\n" for one in NEW))
    return refresh(served, Changes(news=news), print)


@pytest.mark.proof
def test_new_articles_come_into_blocks_and_the_version_is_verified(refreshed, served, open_session):
    assert refreshed.verification.passed and refreshed.added == len(NEW)
    ask = open_session(refreshed.version)
    new = [one.news_id for one in NEW]
    assert ask("score", history=[""], candidates=[" ".join(new)])["known"].all()
    shown = ask("recommend", history=[f"{one} {two}" for one, two in pairwise(new)])["news_id"]
    assert any(one.startswith(b"X") for one in shown.ravel())
    before, after = (read_contract(served / "genre_recommender" / number)["sizes"] for number in "12")
    assert after == {**before, "articles": refreshed.articles}


def test_the_index_is_that_of_a_full_export(refreshed, towers):
    values = attached_values(refreshed.version, "index")
    index = read_catalogue(values)
    bias = np.asarray(towers[0].moment_bias(index.counters))
    vectors, shown = np.column_stack([index.retrieval_vectors, bias]), may_be_found(index, None)
    for name, value in variable_values(PartitionedIndex(vectors, FEW, shown)).items():
        np.testing.assert_array_equal(values[f"nearest.{name}"], value)
