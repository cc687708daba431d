"""A run's models: made from its settings, loaded from its folder, saved to it."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py

from genre_tf.backbones.bert import BERT, Bert, load_bert, save_bert
from genre_tf.backbones.language_models import load_language_model
from genre_tf.config import GenerationConfig, NewsConfig, RunConfig, read_config
from genre_tf.data.prepared import file_fingerprint
from genre_tf.errors import InputError
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.models.article_features import FrozenText
from genre_tf.models.news_encoder import Categories, NewsEncoder
from genre_tf.models.ranker import Ranker
from genre_tf.models.text_model import WEIGHTS_FILE, describe, described_in, load_own_weights
from genre_tf.models.two_tower import TwoTower
from genre_tf.models.writer import Writer
from genre_tf.text.byte_pair import BytePair

BACKBONE_FOLDER = "backbone"  # the news backbone before training, so that a run is complete
CACHE_FOLDER = "cache"  # frozen states; can be deleted at any time
FOLDER = "generation"
PREFERENCE = "preference"  # folder of the writer that preference learning has made of the adapted one
_CATEGORIES_FILE = "categories.json"

Model = TypeVar("Model", TwoTower, Ranker)


def news_encoder_of(
    bert: str | Path | Bert,
    config: NewsConfig,
    categories: Categories,
    *,
    reduced_dimension: int = 0,
    frozen: FrozenText | None = None,
) -> NewsEncoder:
    """A news encoder with the settings of a run, on a loaded BERT or one by name that fits them.

    It may be reduced to a width, and share the frozen layers of another one of the same BERT and settings.
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
    """Copy a news backbone and the known categories to a run folder, replacing an earlier one."""
    bert = load_bert(backbone) if isinstance(backbone, str) else backbone

    def write(part: Path) -> None:
        save_bert(bert, part)
        names = json.dumps(categories.names, ensure_ascii=False)
        (part / _CATEGORIES_FILE).write_text(names + "\n", "utf-8")

    _replace_backbone(run, write)


def copy_backbone(source: Path, run: Path) -> None:
    """Copy the news backbone of another run, with the categories it was trained with, to a run folder."""
    folder = source / BACKBONE_FOLDER
    try:
        _replace_backbone(run, lambda part: shutil.copytree(folder, part))
    except OSError as error:
        raise InputError(f"{folder} cannot be copied ({error}); give a full run") from None


def _replace_backbone(run: Path, write: Callable[[Path], Any]) -> None:
    part = run / f"{BACKBONE_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    write(part)
    shutil.rmtree(run / BACKBONE_FOLDER, ignore_errors=True)
    part.rename(run / BACKBONE_FOLDER)


def load_news_encoder(
    run: Path, config: RunConfig, *, reduced_dimension: int = 0, shared: NewsEncoder | None = None
) -> NewsEncoder:
    """The news encoder of a run before training; may share the frozen layers of one of the same run."""
    folder = run / BACKBONE_FOLDER
    frozen = shared.frozen if shared is not None and shared.bert.folder == folder else None
    return news_encoder_of(
        folder, config.news, _read_categories(run), reduced_dimension=reduced_dimension, frozen=frozen
    )


def _read_categories(run: Path) -> Categories:
    file = run / BACKBONE_FOLDER / _CATEGORIES_FILE
    try:
        return Categories(tuple(json.loads(file.read_text("utf-8"))))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); {run} is not a complete run folder, train it first"
        ) from None


def load_two_tower(run: Path, *, trained: bool = True, shared: NewsEncoder | None = None) -> TwoTower:
    """The two towers of a run; unless `trained`, before training.

    They may share the frozen layers of an encoder of the same run.

    Raises:
        InputError: the run has no trained towers, or one of its files is missing or damaged.
    """
    config = _settings(run, "retrieval", trained)
    news = load_news_encoder(run, config, reduced_dimension=config.retrieval.dimension, shared=shared)
    return _with_weights(two_tower_of(news, config), run, "retrieval", trained)


def load_ranker(run: Path, *, trained: bool = True, shared: NewsEncoder | None = None) -> Ranker:
    """The ranker of a run; see `load_two_tower`."""
    config = _settings(run, "ranking", trained)
    ranker = ranker_of(load_news_encoder(run, config, shared=shared), config)
    return _with_weights(ranker, run, "ranking", trained)


CHOOSER, JUDGE = "chooser", "judge"
"""Click models of the two halves of the readers, and the folders of a run that hold them."""


def config_of_half(config: RunConfig, half: str) -> RunConfig:
    """The settings of the click model of a half: texts alone, no teacher, and a seed of its own."""
    ranking = dataclasses.replace(config.ranking, teacher="", counters=False)
    return dataclasses.replace(config, ranking=ranking, seed=config.seed + 1 + (half == JUDGE))


def load_half(run: Path, half: str) -> Ranker:
    """The click model of a half of the readers, `CHOOSER` or `JUDGE`; see `load_two_tower`."""
    config = config_of_half(_settings(run, half, True), half)
    return _with_weights(ranker_of(load_news_encoder(run, config), config), run, half, True)


def check_trained(run: Path, stage: str) -> None:
    """Check that a trained stage, "retrieval" or "ranking", of a run can be read, without reading weights.

    Raises:
        InputError: as in `load_two_tower`, except that a wrong shape inside its weights is not found.
    """
    file = run / stage / WEIGHTS_FILE
    _settings(run, stage, trained=True)
    _read_categories(run)
    BERT.check(run / BACKBONE_FOLDER)
    try:
        h5py.File(file).close()
    except OSError as error:
        raise InputError(f"{file} is damaged ({error}); train the {stage} stage again") from None


def _settings(run: Path, stage: str, trained: bool) -> RunConfig:
    file = run / stage / WEIGHTS_FILE
    if trained and not file.is_file():
        raise InputError(
            f"{run} has no trained {stage} stage ({file} is missing); run: genre train {stage} --run {run}"
        )
    return read_config(run / "config.toml")


def _with_weights(model: Model, run: Path, stage: str, trained: bool) -> Model:
    if trained:
        load_own_weights(model, run / stage / WEIGHTS_FILE, f"train the {stage} stage again")
    return model


def save_generator_sizes(writer: Writer, folder: Path) -> None:
    """Write everything of a writer except the weights: vocabulary, sizes, common words."""
    folder.mkdir(parents=True, exist_ok=True)
    describe(writer, folder, **({"adapted": writer.adapted} if writer.adapted else {}))


def writer_folder(run: Path) -> Path:
    """The folder of a run's writer: of preference learning, if that began with its adapted writer."""
    weights, learned = run / FOLDER / WEIGHTS_FILE, run / PREFERENCE
    if not (weights.is_file() and (learned / WEIGHTS_FILE).is_file()):
        return run / FOLDER
    try:
        begun = described_in(learned, Writer).get("adapted") == file_fingerprint(weights)
    except InputError:
        begun = False
    return learned if begun else run / FOLDER


def load_generator(run: Path, *, trained: bool = True, preference: bool = True) -> Writer:
    """The writer of a run; unless `trained`, with new random weights, into which others can be loaded.

    Without `preference` it is the writer before preference learning.

    Raises:
        InputError: the run has no trained writer, or one of its files is missing or damaged.
    """
    folder = writer_folder(run) if preference else run / FOLDER
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(
            f"{run} has no trained generator ({weights} is missing); run: genre train generation --run {run}"
        )
    try:
        described = described_in(folder, Writer)
        writer = Writer.from_config(described["config"])
        writer.adapted = described.get("adapted")
        if trained:
            writer.load_weights(weights)
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(f"{folder} is damaged ({error}); train the generation stage again") from None
    return writer


def untrained_generator(run: Path, settings: GenerationConfig) -> Writer:
    """The writer of a run at the beginning of its training, for comparison.

    Its settings name the checkpoint that it was adapted from, if it did not start with random weights.

    Raises:
        InputError: as in `load_generator`; or the checkpoint does not exist or has changed.
    """
    if settings.is_new:
        return load_generator(run, trained=False)
    found = load_language_model(settings.backbone, CONTROL_TOKENS)
    config = described_in(run / FOLDER, Writer)["config"]
    described = config.pop("language_model")
    if described["config"] != json.loads(json.dumps(found.config)):
        raise InputError(f"{settings.backbone} is not the checkpoint that {run / FOLDER} was trained from")
    begun: Any = dataclasses.replace(found, tokenizer=BytePair.from_config(described))  # type: ignore[type-var]
    return Writer(begun, **{"chat": {}, **config})
