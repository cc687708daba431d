"""A run's writer: loading and saving its weights, vocabulary and sizes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from genre_tf.backbones.language_models import load_language_model
from genre_tf.data.manifest import file_fingerprint
from genre_tf.errors import InputError
from genre_tf.generation.prompts import CONTROL_TOKENS
from genre_tf.generation.reader_prefix import UNSEEN
from genre_tf.models.text_model import describe, described_in, is_preset
from genre_tf.models.writer import Writer
from genre_tf.text.byte_pair import BytePair

FOLDER = "generation"
WEIGHTS_FILE = "model.weights.h5"


def save_generator_sizes(writer: Writer, folder: Path) -> None:
    """Write everything except the weights: vocabulary, sizes, common words.

    Args:
        writer: the writer, trained or not.
        folder: created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    describe(writer, folder, **({"towers": writer.towers} if writer.towers else {}))


def is_described_in(folder: Path) -> bool:
    """Whether a folder was written by `save_generator_sizes`."""
    return is_preset(folder)


def towers_fingerprint(run: Path) -> str | None:
    """SHA-256 of the weights of a run's two towers; None if there are none."""
    file = run / "retrieval" / WEIGHTS_FILE
    return file_fingerprint(file) if file.is_file() else None


def reads_towers_of(run: Path, folder: Path) -> bool:
    """Whether a generator was trained with the reader vectors of a run's current towers.

    Args:
        run: the run folder.
        folder: folder of the generator, written by `save_generator_sizes`.

    Returns:
        True also if this is unknown.
    """
    try:
        learned = described_in(folder, Writer)["towers"]
    except (InputError, KeyError):
        return True
    now = towers_fingerprint(run)
    return learned is None or now is None or learned == now


def check_towers(run: Path) -> None:
    """Check that the generator of a run belongs to its towers.

    Raises:
        InputError: the towers were trained again since, so the reader's vector would have another meaning.
    """
    if not reads_towers_of(run, run / FOLDER):
        raise InputError(
            f"{run / FOLDER} was trained with other towers than {run} has now, because retrieval was trained "
            f"again; run: genre train generation --run {run}"
        )


def load_generator(run: Path, *, trained: bool = True) -> Writer:
    """The writer of a run.

    Args:
        run: the run folder.
        trained: False: return it with new random weights, into which others can be loaded.

    Raises:
        InputError: the run has no trained writer, or it was trained with other towers, or one of its files
            is missing or damaged.
    """
    folder = run / FOLDER
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(
            f"{run} has no trained generator ({weights} is missing); run: genre train generation --run {run}"
        )
    if trained:
        check_towers(run)
    try:
        described = described_in(folder, Writer)
        writer = Writer.from_config(described["config"])
        writer.towers = described.get("towers")
        if trained:
            writer.load_weights(weights)
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise InputError(f"{folder} is damaged ({error}); train the generation stage again") from None
    return writer


def untrained_generator(run: Path, backbone: str) -> Writer:
    """The writer of a run at the beginning of its training, for comparison.

    Args:
        run: the run folder.
        backbone: name of the checkpoint that it was adapted from; empty: it started with random weights.

    Raises:
        InputError: as in `load_generator`; or the checkpoint does not exist or has changed.
    """
    if not backbone:
        return load_generator(run, trained=False)
    found = load_language_model(backbone, CONTROL_TOKENS)
    config = described_in(run / FOLDER, Writer)["config"]
    described = config.pop("language_model")
    if described["config"] != json.loads(json.dumps(found.config)):
        raise InputError(f"{backbone} is not the checkpoint that {run / FOLDER} was trained from")
    begun: Any = dataclasses.replace(found, tokenizer=BytePair.from_config(described))  # type: ignore[type-var]
    return Writer(begun, **config, prefix_bias=UNSEEN)
