"""A run's generator: loading and saving its weights, vocabulary and sizes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genre_tf.backbones.language_models import (
    build_language_model,
    family_of,
    layers_of,
    load_language_model,
    parse_writer_trainable,
)
from genre_tf.data.manifest import file_fingerprint
from genre_tf.errors import InputError
from genre_tf.models.generator import Generator
from genre_tf.models.prompts import CONTROL_TOKENS, Prompts, PromptSizes
from genre_tf.models.reader_prefix import UNSEEN
from genre_tf.text.byte_pair import BytePair

FOLDER = "generation"
WEIGHTS_FILE = "model.weights.h5"
_SIZES_FILE = "generator.json"


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator and everything that belongs to it.

    Attributes:
        generator: the model.
        prompts: lays out its inputs, with its vocabulary.
        common_words: words of its corpus that are not names, for grounding.
        config: its backbone's configuration, in Hugging Face's format.
        trainable: what is trained of the backbone: none, lora R or all.
        towers: SHA-256 of the weights of the two towers whose reader vectors it was trained with; None if
            unknown.
    """

    generator: Generator
    prompts: Prompts
    common_words: tuple[str, ...]
    config: dict[str, Any]
    trainable: str = "all"
    towers: str | None = None


def save_generator_sizes(parts: TrainedGenerator, folder: Path) -> None:
    """Write everything except the weights: vocabulary, sizes, common words.

    Args:
        parts: the generator, trained or not.
        folder: created if it does not exist.
    """
    generator, prompts = parts.generator, parts.prompts
    prompts.tokenizer.save(folder)
    sizes = {
        "family": family_of(parts.config),
        "config": parts.config,
        "trainable": parts.trainable,
        "user_dimension": generator.reader_prefix.user_dimension,
        "prefix_tokens": generator.reader_prefix.prefix_tokens,
        "prompt": asdict(prompts.sizes),
        "common_words": list(parts.common_words),
        **({"towers": parts.towers} if parts.towers else {}),
    }
    (folder / _SIZES_FILE).write_text(json.dumps(sizes, ensure_ascii=False) + "\n", "utf-8")


def is_described_in(folder: Path) -> bool:
    """Whether a folder was written by `save_generator_sizes`."""
    return (folder / _SIZES_FILE).is_file()


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
        learned = json.loads((folder / _SIZES_FILE).read_text("utf-8")).get("towers")
    except (OSError, ValueError, AttributeError):
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


def load_generator(run: Path, *, trained: bool = True) -> TrainedGenerator:
    """The generator of a run.

    Args:
        run: the run folder.
        trained: False: return it with new random weights, into which others can be loaded.

    Raises:
        InputError: the run has no trained generator, or it was trained with other towers, or one of its files
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
        sizes = json.loads((folder / _SIZES_FILE).read_text("utf-8"))
        parts = _described(folder, sizes, build_language_model(sizes["config"]))
        if trained:
            parts.generator.load_weights(weights)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged ({error}); train the generation stage again") from None
    return parts


def untrained_generator(run: Path, backbone: str) -> TrainedGenerator:
    """The generator of a run at the beginning of its training, for comparison.

    Args:
        run: the run folder.
        backbone: name of the checkpoint that it was adapted from; empty: it started with random weights.

    Raises:
        InputError: as in `load_generator`; or the checkpoint does not exist or has changed.
    """
    if not backbone:
        return load_generator(run, trained=False)
    found = load_language_model(backbone, CONTROL_TOKENS)
    folder = run / FOLDER
    try:
        sizes = json.loads((folder / _SIZES_FILE).read_text("utf-8"))
        if json.loads(json.dumps(found.config)) != sizes["config"]:
            raise InputError(f"{backbone} is not the checkpoint that {folder} was trained from")
        return _described(folder, sizes, found.backbone, prefix_bias=UNSEEN)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged ({error}); train the generation stage again") from None


def _described(
    folder: Path, sizes: dict[str, Any], backbone: Any, *, prefix_bias: float = 0.0
) -> TrainedGenerator:
    """The generator that a folder describes, with a given backbone."""
    tokenizer = BytePair.from_folder(folder)
    config = sizes["config"]
    layers = layers_of(
        backbone,
        config,
        parse_writer_trainable(sizes["trainable"]),
        [tokenizer.token_id(token) for token in CONTROL_TOKENS],
    )
    generator = Generator(
        layers,
        user_dimension=sizes["user_dimension"],
        prefix_tokens=sizes["prefix_tokens"],
        prefix_bias=prefix_bias,
    )
    prompts = Prompts(tokenizer, PromptSizes(**sizes["prompt"]))
    words = tuple(sizes["common_words"])
    return TrainedGenerator(generator, prompts, words, config, sizes["trainable"], sizes.get("towers"))
