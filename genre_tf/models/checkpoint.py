"""A run's trained towers and ranker, loaded from its folder."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import h5py
import keras

from genre_tf.backbones.bert import Bert, check_bert, load_bert, save_bert
from genre_tf.config import RunConfig, read_config
from genre_tf.errors import InputError
from genre_tf.models.backbone import Categories, NewsBackbone, load_news_backbone
from genre_tf.models.ranker import Ranker
from genre_tf.models.two_tower import TwoTower

BACKBONE_FOLDER = "backbone"  # the news backbone before training, so that a run is complete
CACHE_FOLDER = "cache"  # frozen states; can be deleted at any time
WEIGHTS_FILE = "model.weights.h5"
_CATEGORIES_FILE = "categories.json"


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


def load_backbone(run: Path, config: RunConfig) -> NewsBackbone:
    """The news backbone of a run before training.

    Raises:
        InputError: the folder is not a run folder, or a file is missing.
    """
    return load_news_backbone(run / BACKBONE_FOLDER, config.news, _read_categories(run))


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


def load_two_tower(run: Path, *, trained: bool = True, shared: NewsBackbone | None = None) -> TwoTower:
    """The two towers of a run.

    Args:
        run: the run folder.
        trained: False: the towers before training.
        shared: a loaded backbone whose frozen layers are reused.

    Raises:
        InputError: the run has no trained towers, or one of its files is missing or damaged.
    """
    return _load(run, "retrieval", TwoTower, trained, shared)


def load_ranker(run: Path, *, trained: bool = True, shared: NewsBackbone | None = None) -> Ranker:
    """The ranker of a run; see `load_two_tower`."""
    return _load(run, "ranking", Ranker, trained, shared)


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
    check_bert(run / BACKBONE_FOLDER)
    try:
        h5py.File(file).close()
    except OSError as error:
        raise InputError(f"{file} is damaged ({error}); train the {stage} stage again") from None


Model = TypeVar("Model", bound=keras.Model)


def _load(
    run: Path,
    stage: str,
    model: Callable[[NewsBackbone, RunConfig], Model],
    trained: bool,
    shared: NewsBackbone | None,
) -> Model:
    file = run / stage / WEIGHTS_FILE
    if trained:
        _require_trained(run, stage)
    config = read_config(run / "config.toml")
    backbone = load_backbone(run, config)
    if shared is not None and shared.identity == backbone.identity:
        backbone = dataclasses.replace(backbone, lower=shared.lower)
    built = model(backbone, config)
    if trained:
        try:
            built.load_weights(file)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{file} does not fit this run ({str(error).splitlines()[0]}); train the {stage} stage again"
            ) from None
    return built
