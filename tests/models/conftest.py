"""A tiny random BERT, cut below its trained layers."""

from pathlib import Path

import pytest

from genre_tf.backbones.bert import load_bert, save_bert
from genre_tf.config import NewsConfig
from genre_tf.models.checkpoint import news_encoder_of
from genre_tf.models.news_encoder import Categories, NewsEncoder

CATEGORIES = Categories.of(["sports", "food"], ["tennis", "cheese"])


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_bert(load_bert("tiny"), folder)
    return folder


@pytest.fixture
def backbone(tiny_bert: Path) -> NewsEncoder:
    return news_encoder_of(tiny_bert, NewsConfig(backbone="tiny", trainable="none"), CATEGORIES)
