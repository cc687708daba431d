"""A run's models: made from its settings, loaded from its folder, saved to it."""

import json
import shutil
from pathlib import Path
from typing import TypeVar

import h5py

from genre_tf.backbones.bert import BERT, Bert, load_bert, save_bert
from genre_tf.config import NewsConfig, RunConfig, read_config
from genre_tf.errors import InputError
from genre_tf.models.article_features import FrozenText
from genre_tf.models.news_encoder import Categories, NewsEncoder
from genre_tf.models.ranker import Ranker
from genre_tf.models.text_model import load_own_weights
from genre_tf.models.two_tower import TwoTower

BACKBONE_FOLDER = "backbone"  # the news backbone before training, so that a run is complete
CACHE_FOLDER = "cache"  # frozen states; can be deleted at any time
WEIGHTS_FILE = "model.weights.h5"
_CATEGORIES_FILE = "categories.json"


def news_encoder_of(
    bert: str | Path | Bert,
    config: NewsConfig,
    categories: Categories,
    *,
    reduced_dimension: int = 0,
    frozen: FrozenText | None = None,
) -> NewsEncoder:
    """A news encoder with the settings of a run.

    Args:
        bert: a loaded BERT, or its name in any form of `resolve_backbone`.
        config: settings of the news encoder.
        categories: known categories and subcategories.
        reduced_dimension: width to which vectors are reduced; 0: not reduced.
        frozen: frozen layers to share; those of the same BERT with the same settings.

    Raises:
        InputError: there is no such BERT, or the settings do not fit it.
    """
    return NewsEncoder(
        bert if isinstance(bert, Bert) else load_bert(str(bert), dropout=config.dropout),
        trained_layers=config.trainable,
        max_tokens=config.max_title_tokens,
        use_abstract=config.use_abstract,
        categories=categories.names if config.use_category else (),
        category_dimension=config.category_dimension,
        interest_dimension=config.interest_dimension,
        reduced_dimension=reduced_dimension,
        dropout=config.dropout,
        precision=config.precision,
        chunk=config.chunk,
        frozen=frozen,
    )


def two_tower_of(news: NewsEncoder, config: RunConfig) -> TwoTower:
    """The two towers of a run; they train `news` itself if it already has their width, else a copy."""
    settings = config.retrieval
    width = 0 if settings.dimension >= sum(news.parts) else settings.dimension
    return TwoTower(
        news,
        max_history=config.data.max_history,
        heads=settings.heads,
        dimension=settings.dimension,
        view_counters=settings.view_counters,
        dropout=config.news.dropout,
        share_news=news.reduced == width,
    )


def ranker_of(news: NewsEncoder, config: RunConfig, click_rate: float = 0.05) -> Ranker:
    """The ranker of a run, which trains `news` itself; logits start at the click rate."""
    return Ranker(
        news,
        max_history=config.data.max_history,
        counters=config.ranking.counters,
        view_counters=config.retrieval.view_counters,
        dropout=config.news.dropout,
        click_rate=click_rate,
        share_news=True,
    )


def save_backbone(backbone: str | Bert, categories: Categories, run: Path) -> None:
    """Copy a news backbone and the known categories to a run folder, replacing an earlier one.

    Args:
        backbone: its name, or a loaded one.
        categories: categories of the run's articles.
        run: the run folder.

    Raises:
        InputError: there is no such backbone.
    """
    bert = load_bert(backbone) if isinstance(backbone, str) else backbone
    part = run / f"{BACKBONE_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    save_bert(bert, part)
    (part / _CATEGORIES_FILE).write_text(json.dumps(categories.names, ensure_ascii=False) + "\n", "utf-8")
    shutil.rmtree(run / BACKBONE_FOLDER, ignore_errors=True)
    part.rename(run / BACKBONE_FOLDER)


def copy_backbone(source: Path, run: Path) -> None:
    """Copy the news backbone of another run, with the categories it was trained with, to a run folder.

    Raises:
        InputError: the other run no longer has it.
    """
    part = run / f"{BACKBONE_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(source / BACKBONE_FOLDER, part)
    except OSError as error:
        raise InputError(f"{source / BACKBONE_FOLDER} cannot be copied ({error}); give a full run") from None
    shutil.rmtree(run / BACKBONE_FOLDER, ignore_errors=True)
    part.rename(run / BACKBONE_FOLDER)


def load_news_encoder(
    run: Path, config: RunConfig, *, reduced_dimension: int = 0, shared: NewsEncoder | None = None
) -> NewsEncoder:
    """The news encoder of a run before training.

    Args:
        run: the run folder.
        config: its settings.
        reduced_dimension: width to which vectors are reduced; 0: not reduced.
        shared: an encoder of the same run whose frozen layers are shared.

    Raises:
        InputError: the folder is not a run folder, or a file is missing.
    """
    frozen = shared.frozen if shared is not None and shared.bert.folder == run / BACKBONE_FOLDER else None
    categories = _read_categories(run)
    folder = run / BACKBONE_FOLDER
    return news_encoder_of(
        folder, config.news, categories, reduced_dimension=reduced_dimension, frozen=frozen
    )


def _read_categories(run: Path) -> Categories:
    file = run / BACKBONE_FOLDER / _CATEGORIES_FILE
    try:
        return Categories(tuple(json.loads(file.read_text("utf-8"))))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); {run} is not a complete run folder, train it first"
        ) from None


def _require_trained(run: Path, stage: str) -> None:
    file = run / stage / WEIGHTS_FILE
    if not file.is_file():
        raise InputError(
            f"{run} has no trained {stage} stage ({file} is missing); run: genre train {stage} --run {run}"
        )


def load_two_tower(run: Path, *, trained: bool = True, shared: NewsEncoder | None = None) -> TwoTower:
    """The two towers of a run.

    Args:
        run: the run folder.
        trained: False: the towers before training.
        shared: an encoder of the same run whose frozen layers are shared.

    Raises:
        InputError: the run has no trained towers, or one of its files is missing or damaged.
    """
    config = _settings(run, "retrieval", trained)
    news = load_news_encoder(run, config, reduced_dimension=config.retrieval.dimension, shared=shared)
    towers = two_tower_of(news, config)
    return _with_weights(towers, run, "retrieval") if trained else towers


def load_ranker(run: Path, *, trained: bool = True, shared: NewsEncoder | None = None) -> Ranker:
    """The ranker of a run; see `load_two_tower`."""
    config = _settings(run, "ranking", trained)
    ranker = ranker_of(load_news_encoder(run, config, shared=shared), config)
    return _with_weights(ranker, run, "ranking") if trained else ranker


def check_trained(run: Path, stage: str) -> None:
    """Check that a trained stage of a run can be read, without reading weights.

    Args:
        run: the run folder.
        stage: "retrieval" or "ranking".

    Raises:
        InputError: as in `load_two_tower`, except that a wrong shape inside its weights is not found.
    """
    file = run / stage / WEIGHTS_FILE
    _require_trained(run, stage)
    read_config(run / "config.toml")
    _read_categories(run)
    BERT.check(run / BACKBONE_FOLDER)
    try:
        h5py.File(file).close()
    except OSError as error:
        raise InputError(f"{file} is damaged ({error}); train the {stage} stage again") from None


def _settings(run: Path, stage: str, trained: bool) -> RunConfig:
    if trained:
        _require_trained(run, stage)
    return read_config(run / "config.toml")


Model = TypeVar("Model", TwoTower, Ranker)


def _with_weights(model: Model, run: Path, stage: str) -> Model:
    file = run / stage / WEIGHTS_FILE
    try:
        load_own_weights(model, file)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{file} does not fit this run ({str(error).splitlines()[0]}); train the {stage} stage again"
        ) from None
    return model
