"""The models of a run as scorers of a log, either trained or before training."""

from collections.abc import Sequence
from pathlib import Path

from genre_tf.config import RunConfig, read_config
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.records import read_articles
from genre_tf.errors import InputError
from genre_tf.evaluation.scoring import ModelScorer, RankerScorer, TwoTowerScorer
from genre_tf.models.checkpoint import (
    CACHE_FOLDER,
    WEIGHTS_FILE,
    load_news_encoder,
    load_ranker,
    load_two_tower,
)

STAGES = {"two_tower": "retrieval", "ranker": "ranking", "ranker_counters": "ranking"}
MODELS = tuple(STAGES)


def open_run(run: Path) -> RunConfig:
    """The settings of a run.

    Raises:
        InputError: it is not a run folder.
    """
    if not run.is_dir():
        raise InputError(f"{run} is not a folder; give a run folder made by `genre train`")
    return read_config(run / "config.toml")


def run_articles(run: Path) -> dict[str, Article]:
    """The articles of a run's training, by id.

    Raises:
        InputError: it is not a run folder, or its prepared data cannot be read.
    """
    open_run(run)
    return {article.news_id: article for article in read_articles(run / "prepared").articles[1:]}


def chosen_models(run: Path, config: RunConfig, asked: Sequence[str]) -> tuple[str, ...]:
    """The models to use, in the order of `MODELS`.

    Args:
        run: the run folder.
        config: its settings.
        asked: some of `MODELS`; empty: every model that the run has trained.

    Raises:
        InputError: a name is unknown, or the run has not trained that model.
    """
    unknown = [name for name in asked if name not in MODELS]
    if unknown:
        raise InputError(f"there is no model {unknown[0]!r}; known: {', '.join(MODELS)}")
    trained = [name for name, stage in STAGES.items() if (run / stage / WEIGHTS_FILE).is_file()]
    if not trained:
        raise InputError(f"{run} has no trained model; run: genre train all --run {run}")
    if not config.ranking.counters and "ranker_counters" in trained:
        trained.remove("ranker_counters")
        if "ranker_counters" in asked:
            raise InputError(
                f"the ranker of {run} was trained without counters (config.toml: ranking.counters)"
            )
    missing = [name for name in asked if name not in trained]
    if missing:
        stage = STAGES[missing[0]]
        raise InputError(f"{run} has no trained {missing[0]}; run: genre train {stage} --run {run}")
    return tuple(name for name in trained if not asked or name in asked)


def load_scorers(
    run: Path, names: Sequence[str], table: ArticleTable, *, trained: bool = True
) -> dict[str, ModelScorer]:
    """Load models and embed every article once per stage.

    Args:
        run: the run folder.
        names: some of `MODELS`.
        table: the articles of the log to score.
        trained: False: the models before training.

    Returns:
        One scorer per name. The two rankers share their article vectors.

    Raises:
        InputError: a stage is not trained, or files are damaged.
    """
    scorers: dict[str, ModelScorer] = {}
    # Keep frozen states during this call: both stages, trained or not, start from the same ones.
    cache = run / CACHE_FOLDER
    shared = load_news_encoder(run, read_config(run / "config.toml"))
    if "two_tower" in names:
        towers = load_two_tower(run, trained=trained, shared=shared)
        scorers["two_tower"] = TwoTowerScorer(towers, towers.news.embed(towers.news.features(table, cache)))
    if "ranker" in names or "ranker_counters" in names:
        ranker = load_ranker(run, trained=trained, shared=shared)
        vectors = ranker.news.embed(ranker.news.features(table, cache))
        for name in ("ranker", "ranker_counters"):
            if name in names:
                scorers[name] = RankerScorer(ranker, vectors, with_counters=name == "ranker_counters")
    return scorers


def has_generator(run: Path) -> bool:
    """Whether the run has trained a generator."""
    return (run / "generation" / WEIGHTS_FILE).is_file()
