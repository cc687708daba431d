"""A run's generator: its vocabulary and sizes beside its weights, and back."""

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
    """A generator and what belongs to it.

    Attributes:
        generator: the model.
        prompts: lays out what it reads, with its vocabulary.
        common_words: words of its corpus that are no names, for grounding.
        config: its backbone's configuration, as Hugging Face writes it.
        trainable: what of the backbone is trained: none, lora R or all.
        towers: SHA-256 of the weights of the two towers whose readers' vectors it learned to read; None where
            that is not known.
    """

    generator: Generator
    prompts: Prompts
    common_words: tuple[str, ...]
    config: dict[str, Any]
    trainable: str = "all"
    towers: str | None = None


def save_generator_sizes(parts: TrainedGenerator, folder: Path) -> None:
    """Write all but the weights: vocabulary, sizes, common words.

    Args:
        parts: the generator, trained or not.
        folder: made where it is absent.
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
    """Whether `save_generator_sizes` wrote into a folder."""
    return (folder / _SIZES_FILE).is_file()


def towers_fingerprint(run: Path) -> str | None:
    """SHA-256 of the weights of a run's two towers; None where there are none."""
    file = run / "retrieval" / WEIGHTS_FILE
    return file_fingerprint(file) if file.is_file() else None


def reads_towers_of(run: Path, folder: Path) -> bool:
    """Whether a generator learned to read the readers' vectors of a run's towers as they are now.

    Args:
        run: the run folder.
        folder: of the generator, as `save_generator_sizes` wrote it.

    Returns:
        True too where nothing tells.
    """
    try:
        learned = json.loads((folder / _SIZES_FILE).read_text("utf-8")).get("towers")
    except (OSError, ValueError, AttributeError):
        return True
    now = towers_fingerprint(run)
    return learned is None or now is None or learned == now


def check_towers(run: Path) -> None:
    """See that the generator of a run belongs to its towers.

    Raises:
        InputError: the towers were trained again since: the reader's vector would tell it something else.
    """
    if not reads_towers_of(run, run / FOLDER):
        raise InputError(
            f"{run / FOLDER} was trained on other towers than {run} has now, for retrieval was trained again "
            f"since: genre train generation --run {run}"
        )


def load_generator(run: Path, *, trained: bool = True) -> TrainedGenerator:
    """The generator of a run.

    Args:
        run: the run folder.
        trained: False gives it with new random weights, to start from others.

    Raises:
        InputError: the run has no trained generator, or one that was trained on other towers, or a file of it
            is missing or damaged.
    """
    folder = run / FOLDER
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise InputError(
            f"{run} has no trained generator ({weights} is missing): genre train generation --run {run}"
        )
    if trained:
        check_towers(run)
    try:
        sizes = json.loads((folder / _SIZES_FILE).read_text("utf-8"))
        parts = _described(folder, sizes, build_language_model(sizes["config"]))
        if trained:
            parts.generator.load_weights(weights)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged ({error}): train the generation stage again") from None
    return parts


def untrained_generator(run: Path, backbone: str) -> TrainedGenerator:
    """The generator of a run as its training began, for comparison.

    Args:
        run: the run folder.
        backbone: name of the checkpoint that it was adapted from; empty: it began with random weights.

    Raises:
        InputError: as `load_generator`; or there is no such checkpoint, or it is another one by now.
    """
    if not backbone:
        return load_generator(run, trained=False)
    found = load_language_model(backbone, CONTROL_TOKENS)
    folder = run / FOLDER
    try:
        sizes = json.loads((folder / _SIZES_FILE).read_text("utf-8"))
        if json.loads(json.dumps(found.config)) != sizes["config"]:
            raise InputError(f"{backbone} is not what {folder} was trained from")
        return _described(folder, sizes, found.backbone, prefix_bias=UNSEEN)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is damaged ({error}): train the generation stage again") from None


def _described(
    folder: Path, sizes: dict[str, Any], backbone: Any, *, prefix_bias: float = 0.0
) -> TrainedGenerator:
    """The generator that a folder describes, around a backbone."""
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
