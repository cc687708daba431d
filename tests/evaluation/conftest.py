"""A tiny data set and a tiny run folder, whose models are as before training."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genre_tf.config import DataConfig, GenerationConfig, NewsConfig, RunConfig, write_config
from genre_tf.data.prepared import read_articles
from genre_tf.data.preparing import prepare
from genre_tf.models.checkpoint import (
    FOLDER,
    WEIGHTS_FILE,
    load_ranker,
    load_two_tower,
    save_backbone,
    save_generator_sizes,
)
from genre_tf.models.new_writer import new_generator
from genre_tf.models.news_encoder import Categories
from genre_tf.models.text_model import save_own_weights

ARTICLES = 40
TOPICS = ("sports", "food", "politics")


def write_split(
    data: Path, name: str, day: int, impressions: int, articles: range, labelled: bool = True
) -> None:
    """A log of readers who click their own topic."""
    generator = np.random.default_rng(day)
    (data / name).mkdir(parents=True)
    news = (
        f"N{at}\t{TOPICS[at % 3]}\t\tNews about {TOPICS[at % 3]} number {at}\t"
        f"A longer text about {TOPICS[at % 3]} that says what happened today.\t\t[]\t[]\n"
        for at in articles
    )
    (data / name / "news.tsv").write_text("".join(news), "utf-8")
    with (data / name / "behaviors.tsv").open("w") as out:
        for row in range(impressions):
            topic = row % 3
            history = [f"N{at}" for at in generator.permutation(articles) if at % 3 == topic][: row % 9]
            shown = generator.permutation(articles)[:6]
            clicked = int(np.argmax(shown % 3 == topic))
            label = (lambda at: f"-{int(at == clicked)}") if labelled else (lambda at: "")  # noqa: B023
            candidates = " ".join(f"N{article}{label(at)}" for at, article in enumerate(shown))
            time = f"11/{day}/2019 {1 + row // 60 % 11}:{row % 60:02d}:00 AM"
            out.write(f"{row + 1}\tU{row % 7}-{day // 12}\t{time}\t{' '.join(history)}\t{candidates}\n")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("news")
    write_split(data, "train", 10, 60, range(1, 30))
    write_split(data, "dev", 12, 30, range(1, ARTICLES))
    write_split(data, "test", 13, 12, range(1, ARTICLES), labelled=False)
    return data


@pytest.fixture(scope="session")
def build_run(tiny_data: Path) -> Callable[[Path, str], Path]:
    def build(run: Path, trainable: str) -> Path:
        config = RunConfig(
            data=DataConfig(max_history=6),
            news=NewsConfig(backbone="tiny", trainable=trainable, category_dimension=4),
            generation=GenerationConfig(backbone="new"),
        )
        prepare(tiny_data, run / "prepared", max_history=6)
        table = read_articles(run / "prepared")
        save_backbone("tiny", Categories.of(table.categories, table.subcategories), run)
        write_config(config, run / "config.toml")
        for stage, load in (("retrieval", load_two_tower), ("ranking", load_ranker)):
            (run / stage).mkdir()
            save_own_weights(load(run, trained=False), run / stage / WEIGHTS_FILE)
        return run

    return build


@pytest.fixture(scope="session")
def tiny_run(build_run: Callable[[Path, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("run"), "none")


@pytest.fixture(scope="session")
def writing_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("writing") / "run"
    shutil.copytree(tiny_run, run)
    settings = GenerationConfig(
        backbone="new", trainable="all", vocabulary_size=300, layers=1, heads=2, hidden=16, max_tokens=96
    )
    parts = new_generator(settings, read_articles(run / "prepared"), run / FOLDER)
    save_generator_sizes(parts, run / FOLDER)
    parts.save_weights(run / FOLDER / WEIGHTS_FILE)
    return run
