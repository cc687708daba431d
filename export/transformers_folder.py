"""Write a run's fine-tuned language model as a folder that Hugging Face `transformers` and genre_tf load."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tensorflow as tf

from genre_tf.backbones.bert import Bert, load_bert, save_bert
from genre_tf.backbones.language_models import LanguageModel, load_language_model, save_language_model
from genre_tf.backbones.trainable import compute_in, parse_trainable
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation.scoring import open_run
from genre_tf.files import whole_folder
from genre_tf.layers.block import merged
from genre_tf.models.checkpoint import load_generator, load_ranker, load_two_tower
from genre_tf.models.writer import Writer

STAGES = ("retrieval", "ranking", "generation")
TOLERANCE = 1e-5  # largest allowed difference between the outputs of the folder and of the run

_LOADERS: dict[str, Callable[[Path], Any]] = {"retrieval": load_two_tower, "ranking": load_ranker}
_CHECKED_TOKENS = 16


def write_transformers_folder(run: Path, stage: str, out: Path, overwrite: bool = False) -> float:
    """Write the fine-tuned language model of a stage as a `transformers` folder, completely or not at all.

    The folder has `config.json`, `model.safetensors`, the tokenizer's files and a model card. It is read back
    and compared with the run before it appears; the largest difference of the outputs is returned. Retrieval
    and ranking give a BERT, generation a GPT-2 or a Llama. Parts that `transformers` does not have (adapters,
    prefixes) are refused, and so is an `out` that contains the run or lies in it.
    """
    if stage not in STAGES:
        raise InputError(f"the stage must be one of {', '.join(STAGES)}; got {stage!r}")
    config = open_run(run)
    _check_place(run, out, overwrite)
    if stage != "generation":
        _require_mergeable(config.news.trainable, "news")
    with whole_folder(out) as folder:
        card: dict[str, Any] = {"stage": stage, "name": out.name, "tolerance": f"{TOLERANCE:g}"}
        if stage == "generation":
            parts = load_generator(run)
            _require_mergeable(parts.trained_layers, stage)
            difference = _write_writer(parts, folder)
            tokens = ", ".join(f"`{token}`" for token in parts.prompts.tokenizer.special_tokens)
            card |= {"auto": "AutoModelForCausalLM", "trainable": parts.trained_layers, "tokens": tokens}
        else:
            difference = _write_bert(_LOADERS[stage](run).news, folder)
            tokens = str(config.news.max_title_tokens)
            card |= {"auto": "AutoModel", "trainable": config.news.trainable, "tokens": tokens}
        if not difference <= TOLERANCE:
            raise FailureError(
                f"the outputs of the folder differ from the run's by {difference:.2g} (allowed: "
                f"{TOLERANCE:g}): nothing was written"
            )
        template = jinja2.Template(Path(__file__).with_name("transformers_card.txt").read_text("utf-8"))
        (folder / "README.md").write_text(template.render(card) + "\n", "utf-8")
    return difference


def _check_place(run: Path, out: Path, overwrite: bool) -> None:
    """Refuse to overwrite a run, or anything else that is not an earlier folder of this kind."""
    ours, theirs = run.resolve(), out.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise InputError(
            f"{out} and the run {run} are the same folder, or one contains the other: give another folder"
        )
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} already exists; give another folder, or --overwrite to replace it")
    if not out.is_dir() or (any(out.iterdir()) and not (out / "config.json").is_file()):
        raise InputError(
            f"{out} has no config.json, so it is not a Hugging Face folder and is not replaced: give another"
        )


def _require_mergeable(trainable: str, section: str) -> None:
    """Refuse a run whose backbone has parts that no `transformers` class has."""
    if parse_trainable(trainable).method in ("adapters", "prefix"):
        raise InputError(
            f"{section}.trainable is {trainable!r}: a model in transformers has no adapters or prefixes, and "
            "they cannot be merged into its kernels. Train with last N, all, lora R or adalora R."
        )


def _write_bert(news: Any, folder: Path) -> float:
    """Write a news backbone; returns the difference of its last states on ids from its vocabulary."""
    bert: Bert = news.bert
    for block in news.upper.blocks:  # weights are always float32, so outputs are compared in float32
        compute_in("float32", block)
    ids = _some_ids(bert.tokenizer.vocabulary_size, int(bert.config["max_position_embeddings"]))
    mask = tf.ones_like(ids, tf.bool)
    lower = news.frozen.lower
    states = tf.constant(ids) if lower is None else lower(tf.constant(ids), training=False)
    of_run = news.upper(states, mask=mask, training=False).numpy()
    with merged(news.upper.blocks):
        save_bert(bert, folder)
    again = load_bert(str(folder), dropout=0.0).backbone
    inputs = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}
    return float(np.abs(again(inputs)["sequence_output"].numpy() - of_run).max())


def _write_writer(parts: Writer, folder: Path) -> float:
    """Write the language model of a generator; returns the difference of its logits."""
    layers, tokenizer = parts.language_model, parts.prompts.tokenizer
    ids = _some_ids(tokenizer.vocabulary_size, layers.max_positions)
    of_run = layers.logits(layers.states(layers.embed(tf.constant(ids)), training=False)).numpy()
    with layers.merged() as backbone:
        save_language_model(LanguageModel(backbone, tokenizer, None, parts.config), folder)
    again = load_language_model(str(folder))
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    logits = again.backbone.token_embedding(again.backbone(inputs), reverse=True).numpy()
    return float(np.abs(logits - of_run).max())


def _some_ids(vocabulary: int, longest: int) -> np.ndarray:
    """Two rows of random tokens from the whole vocabulary, without padding: int32 [2, T]."""
    generator = np.random.default_rng(0)
    return generator.integers(1, vocabulary, (2, min(longest, _CHECKED_TOKENS)), dtype=np.int32)
