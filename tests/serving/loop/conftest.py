"""A small run with its exported recommender, and readers of an app's database that click what they like."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests import world

# The app is an extra, which `make` installs; without it its tests are left out.
collect_ignore_glob = [] if importlib.util.find_spec("sqlalchemy") else ["test_*.py"]

HOUR = 3600
NOW = 1_800_000_000 // HOUR * HOUR + 1800.0  # half past an hour


def impression(store, number: str, reader: str, at: float, items: list[str], version: str = "v/1") -> None:
    """Keep an impression as the app does, at a time of one's own."""
    kept = json.dumps([[item, 0.5, "model", 0, None] for item in items])
    row = {"impression": number, "reader": reader, "time": at, "model_version": version, "trace": "t"}
    store.write(lambda writes: writes.insert("impressions", items=kept, **row)).result()


def event(
    store, reader: str, kind: str, article: str, at: float, impression: str | None = None, **more
) -> None:
    """Keep an event as the app does, at a time of one's own."""
    row = {"reader": reader, "kind": kind, "article": article, "time": at, "impression": impression, **more}
    store.write(lambda writes: writes.new_event(**row)).result()


@dataclass
class Readers:
    """Readers who see random articles; each clicks those of their own category, others seldom."""

    store: object
    articles: dict[str, str]  # id -> category
    seed: int = 0

    def read(
        self,
        hours: range,
        per_hour: int,
        version: str = "genre_recommender/1",
        rate: float = 0.6,
        who: str = "R",
    ) -> None:
        """Impressions and clicks in each of the hours before `NOW`, counted backwards."""
        random = np.random.default_rng(self.seed)
        self.seed += 1
        ids, categories = list(self.articles), sorted(set(self.articles.values()))

        def write(writes) -> None:
            for hour in hours:
                for number in range(per_hour):
                    at = NOW - 1800 - hour * HOUR + number * HOUR / per_hour
                    reader = int(random.integers(60))
                    name, key = f"{who}{reader}", f"{who}-{self.seed}-{hour}-{number}"
                    shown = [ids[place] for place in random.choice(len(ids), 6, replace=False)]
                    kept = json.dumps([[item, 0.5, "model", 0, None] for item in shown])
                    row = {"model_version": version, "trace": "t", "items": kept, "time": at}
                    writes.insert("impressions", impression=key, reader=name, **row)
                    liked = categories[reader % len(categories)]
                    for item in shown:
                        if random.random() < (rate if self.articles[item] == liked else rate / 10):
                            writes.new_event(
                                reader=name, kind="click", time=at + 30, article=item, impression=key
                            )

        self.store.write(write).result()


@pytest.fixture(scope="session")
def wheel() -> Path:
    """`run/`, and `models/` with its first version."""
    return world.built("wheel", _build)


def _build(folder: Path) -> None:
    from genre_tf.config import (
        DataConfig,
        NewsConfig,
        OptimizerConfig,
        RankingConfig,
        RetrievalConfig,
        RunConfig,
    )
    from genre_tf.export.exporting import ExportOptions, export_run
    from genre_tf.export.server_config import write_configuration
    from genre_tf.synth.newsroom import write_newsroom
    from genre_tf.synth.settings import NewsroomSettings
    from genre_tf.training.run_folder import train

    steps = OptimizerConfig(steps=4, batch_size=16, validate_every=2, learning_rate=3e-3)
    config = RunConfig(
        data=DataConfig(max_history=6, validation_share=0.2),
        news=NewsConfig(backbone="tiny", category_dimension=4, max_title_tokens=8),
        retrieval=RetrievalConfig(optimizer=steps),
        ranking=RankingConfig(optimizer=steps),
    )
    config = replace(config, continual=replace(config.continual, margin=0.2))  # a few rows vary by much
    write_newsroom(folder / "data", NewsroomSettings(articles=120, readers=20, impressions=150))
    train(("retrieval", "ranking"), folder / "data", folder / "run", config, print)
    options = ExportOptions(batch_sizes=(1,), generator=False)
    published = export_run(folder / "run", folder / "models", [folder / "data"], options, print)
    write_configuration(folder / "models", [version.parent.name for version, _ in published], 1)


@pytest.fixture
def models(wheel: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(wheel / "models", tmp_path / "models"))


@pytest.fixture
def readers(models: Path) -> Callable[[object], Readers]:
    """Readers of the articles of the first version."""
    from genre_tf.export.articles_file import read_articles

    articles = {one.news_id: one.category for one in read_articles(models / "genre_recommender" / "1")}
    return lambda store: Readers(store, articles)
