"""The models of `genre bench serve`: untrained models of realistic size over a pool of synthetic articles,
and a naive export of the same models."""

from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.config import GenerationConfig, NewsConfig, RunConfig
from genre_tf.contract import GENERATOR, RECOMMENDER, SIGNATURES
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.counters import COUNTERS
from genre_tf.export.generator import GeneratorServable
from genre_tf.export.saved_model import write_saved_model
from genre_tf.export.servables import new_recommender, write_recommender
from genre_tf.export.server_config import write_configuration
from genre_tf.funnel.evidence import Evidence
from genre_tf.funnel.index import Catalogue
from genre_tf.funnel.recommender import Recommender
from genre_tf.funnel.rules import Rules
from genre_tf.funnel.served_models import ServedModels, encode_titles
from genre_tf.generation.writer import WritingGraph, writer_options
from genre_tf.models.checkpoint import news_encoder_of, ranker_of, two_tower_of
from genre_tf.models.new_writer import new_generator
from genre_tf.models.news_encoder import Categories, NewsEncoder
from genre_tf.synth.catalogue import write_catalogue
from genre_tf.synth.settings import NewsroomSettings

NAIVE = "genre_naive"
_RULES = Rules(exploration=0)  # off: requests by ids and by titles would explore different articles
_WRITERS_CORPUS = 2000  # articles that the writer's vocabulary of 4,000 tokens is learned from


@dataclass(frozen=True, kw_only=True)
class ServedSizes:
    """Sizes of the served models.

    Attributes:
        articles: articles in the pool.
        k: number of recommended articles.
        retrieve: number of articles that the towers pass to the ranker.
        generation: settings of the writer.
    """

    articles: int
    k: int
    retrieve: int
    generation: GenerationConfig


def write_models(models: Path, sizes: ServedSizes, news_backbone: str, scratch: Path) -> Catalogue:
    """Export the recommender, the generator and the naive recommender, with the server's configuration.

    Args:
        models: folder to write the exports to.
        sizes: sizes of the served models.
        news_backbone: name of the BERT.
        scratch: folder for files that are copied into the exports.

    Returns:
        The articles of the pool.

    Raises:
        InputError: the backbone does not exist.
    """
    config = RunConfig(news=NewsConfig(backbone=news_backbone, trainable="none"))
    news = news_encoder_of(news_backbone, config.news, Categories.of())
    two_tower = two_tower_of(news, config)
    served = ServedModels(two_tower, ranker_of(news, config))
    articles = _articles(sizes.articles)
    catalogue = _catalogue(articles, served)
    shape: dict[str, Any] = {
        "max_history": config.data.max_history,
        "k": sizes.k,
        "retrieve": sizes.retrieve,
    }
    recommender = new_recommender(served, catalogue, scratch, **shape, rules=_RULES)
    write_recommender(recommender, models / RECOMMENDER / "1")
    _write_naive(models / NAIVE / "1", recommender)
    table = ArticleTable(articles[:_WRITERS_CORPUS])
    trained = new_generator(sizes.generation, table, scratch)
    options = writer_options(sizes.generation.writing, trained.prompts)
    writer = WritingGraph(trained, options)
    servable = GeneratorServable(
        writer,
        served,
        Evidence(catalogue.news_ids, catalogue.titles, catalogue.texts),
        max_history=shape["max_history"],
    )
    servable.write(models / GENERATOR / "1")
    write_configuration(models, [RECOMMENDER, NAIVE, GENERATOR])
    return catalogue


class NaiveEncoder:
    """The same encoder as usually exported: KerasHub's BERT on rows padded to a fixed width."""

    def __init__(self, news: NewsEncoder) -> None:
        self.news, self.dimension, self.frozen = news, news.dimension, self

    def __call__(self, texts: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """As `NewsEncoder.call`."""
        return self.news(self.text_features(texts) if not isinstance(texts, dict) else texts)

    def text_features(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `NewsEncoder.text_features`, but padding is computed too."""
        bert, width = self.news.bert, self.news.max_tokens
        token_ids = bert.tokenizer(texts, width)  # [texts, longest]
        missing = width - tf.shape(token_ids)[1]
        token_ids = tf.pad(token_ids, [[0, 0], [0, missing]], constant_values=bert.tokenizer.pad_id)
        mask = token_ids != bert.tokenizer.pad_id
        inputs = {"token_ids": token_ids, "segment_ids": tf.zeros_like(token_ids), "padding_mask": mask}
        states = bert.backbone(inputs, training=False)["sequence_output"]  # [texts, width, hidden]
        unknown = tf.zeros_like(token_ids[:, 0])
        has_text = tf.strings.length(tf.strings.strip(texts)) > 0
        return {
            "states": states,
            "mask": mask & has_text[:, None],
            "category": unknown,
            "subcategory": unknown,
        }


def _write_naive(folder: Path, ours: Recommender) -> None:
    """The funnel that encodes the titles of each request; only recommended articles have stored vectors."""
    naive_models, encoders = copy(ours.models), ours.models.encoders()
    sides = [NaiveEncoder(encoder) for encoder in encoders]
    naive_models.encoders = lambda: sides
    sizes: dict[str, Any] = {"max_history": ours.max_history, "k": ours.k, "retrieve": ours.retrieve}
    naive = Recommender(naive_models, ours.index, **sizes, rules=_RULES)
    names = ("recommend_text", "score_text")
    signatures = {
        name: (getattr(naive, name), dict.fromkeys(SIGNATURES[RECOMMENDER][name].input_names, tf.string))
        for name in names
    }
    tracked = [ours.index, ours.models, *(side.news.bert.tokenizer for side in sides)]
    write_saved_model(folder, tracked, signatures)


def _articles(count: int) -> list[Article]:
    settings = NewsroomSettings(articles=count)
    return write_catalogue(settings, np.random.default_rng(settings.seed)).articles


def _catalogue(articles: list[Article], models: ServedModels) -> Catalogue:
    """A pool of titles only, so that an article has the same vector as its title in a request."""
    encode = tf.function(lambda texts: encode_titles(texts, *models.encoders()))
    titles = ["", *(article.title for article in articles)]
    in_retrieval, in_ranking = (part.numpy() for part in encode(tf.constant(titles)))
    counters = np.random.default_rng(0).integers(0, 200, (len(titles), len(COUNTERS))).astype(np.float32)
    counters[0] = 0
    ids = ["", *(article.news_id for article in articles)]
    return Catalogue(ids, titles, titles, in_retrieval, in_ranking, counters)
