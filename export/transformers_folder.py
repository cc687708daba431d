"""A run's fine-tuned language model as a folder that Hugging Face `transformers` loads, and we do too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from genre_tf.backbones.bert import Bert, load_bert, save_bert
from genre_tf.backbones.language_models import family_of, load_language_model, save_language_model
from genre_tf.backbones.precision import compute_in
from genre_tf.backbones.trainable import parse_trainable
from genre_tf.backbones.tuned_blocks import LoraBlock
from genre_tf.config import RunConfig
from genre_tf.data.whole_folder import whole_folder
from genre_tf.errors import FailureError, InputError
from genre_tf.evaluation.run_models import open_run
from genre_tf.models.checkpoint import load_ranker, load_two_tower
from genre_tf.models.generator_checkpoint import TrainedGenerator, load_generator

STAGES = ("retrieval", "ranking", "generation")
TOLERANCE = 1e-5
"""Largest difference of what the folder computes from what the run computes."""

_LOADERS: dict[str, Callable[[Path], Any]] = {"retrieval": load_two_tower, "ranking": load_ranker}
_CHECKED_TOKENS = 16
_CARD = """---
library_name: transformers
tags: [news-recommendation, genre-tf]
---
# {name}

{what}

Made by genre_tf of the {stage} stage of a run. Every additional matrix (LoRA) is merged into its kernel; this
folder was read back and computed what the run computes to {tolerance:g}.

```python
from transformers import AutoTokenizer, {auto}

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = {auto}.from_pretrained("{name}")
```

{left_out}
"""
_BERT_CARD = {
    "auto": "AutoModel",
    "what": (
        'A BERT, fine-tuned on clicks (`news.trainable = "{trainable}"`), that reads at most {tokens} tokens '
        "of a title."
    ),
    "left_out": (
        "Not in here, for no `transformers` class has it: what genre_tf puts on top of the token states "
        "(attention pooling, projection, interest space, categories, the click model). `genre export` serves "
        "the whole."
    ),
}
_WRITER_CARD = {
    "auto": "AutoModelForCausalLM",
    "what": (
        'A writer of headlines, summaries and articles (`generation.trainable = "{trainable}"`). Its control '
        "tokens ({tokens}) are special tokens of the tokenizer."
    ),
    "left_out": (
        "Not in here, for no `transformers` class has it: the keys and values that stand for the reader in "
        "front of every layer. This model was trained behind them, and writes for nobody without. `genre "
        "export` serves the whole."
    ),
}


def write_transformers_folder(run: Path, stage: str, out: Path, overwrite: bool = False) -> float:
    """Writes what a stage fine-tuned as a `transformers` folder, whole or not at all.

    The folder has `config.json`, `model.safetensors`, the tokenizer's files and a model card. Before it
    appears it is read back and compared with the run.

    Args:
        run: the run folder.
        stage: of `STAGES`; retrieval and ranking give a BERT, generation a GPT-2 or a Llama.
        out: the folder to write.
        overwrite: replace it if it is there.

    Returns:
        The largest difference of the outputs.

    Raises:
        InputError: no such run, the stage is not trained, `out` is taken or lies around or within the run, or
            something was trained that `transformers` has no place for (adapters, prefixes).
        FailureError: `out` cannot be written, or does not compute what the run computes.
    """
    if stage not in STAGES:
        raise InputError(f"there is no stage {stage!r}; known: {', '.join(STAGES)}")
    config = open_run(run)
    _check_place(run, out, overwrite)
    if stage != "generation":
        require_mergeable(config)
    with whole_folder(out) as folder:
        card: dict[str, Any] = {"stage": stage, "name": out.name, "tolerance": TOLERANCE}
        if stage == "generation":
            parts = load_generator(run)
            difference = _write_writer(parts, folder)
            tokens = ", ".join(f"`{token}`" for token in parts.prompts.tokenizer.special_tokens)
            card |= _WRITER_CARD | {"trainable": parts.trainable, "tokens": tokens}
        else:
            difference = _write_bert(_LOADERS[stage](run).encoder.backbone, folder)
            tokens = str(config.news.max_title_tokens)
            card |= _BERT_CARD | {"trainable": config.news.trainable, "tokens": tokens}
        if not difference <= TOLERANCE:
            raise FailureError(
                f"the folder computes something else than the run (by {difference:.2g}, at most "
                f"{TOLERANCE:g}): nothing was written"
            )
        card["what"] = card["what"].format(**card)
        (folder / "README.md").write_text(_CARD.format(**card), "utf-8")
    return difference


def _check_place(run: Path, out: Path, overwrite: bool) -> None:
    """Refuses what would lose a run, or anything else that is no earlier folder of this kind."""
    ours, theirs = run.resolve(), out.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise InputError(
            f"{out} and the run {run} are one folder, or one holds the other: give one beside it"
        )
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out} is there already; give another folder, or --overwrite to replace it")
    if not out.is_dir() or (any(out.iterdir()) and not (out / "config.json").is_file()):
        raise InputError(
            f"{out} has no config.json, so it is no Hugging Face folder and is not replaced: give another one"
        )


def require_mergeable(config: RunConfig) -> None:
    """Refuses a run whose BERT has parts that no `transformers` class has.

    Raises:
        InputError: adapters or prefixes were trained.
    """
    if parse_trainable(config.news.trainable).method in ("adapters", "prefix"):
        raise InputError(
            f"news.trainable is {config.news.trainable!r}: adapters and prefixes are no part of a BERT in "
            "transformers and cannot be merged into its kernels. Train with last N, all or lora R."
        )


def _write_bert(news: Any, folder: Path) -> float:
    """Writes a news backbone; the difference of its last states on a text of its own vocabulary."""
    bert: Bert = news.bert
    for block in news.upper.blocks:  # weights are float32 whatever a run computes in, and compared as such
        compute_in("float32", block)
    ids = _some_ids(bert.tokenizer.vocabulary_size, int(bert.config["max_position_embeddings"]))
    mask = tf.ones_like(ids, tf.bool)
    states = tf.constant(ids) if news.lower is None else news.lower(tf.constant(ids), training=False)
    of_run = news.upper(states, mask=mask, training=False).numpy()
    with merged_bert(news):
        save_bert(bert, folder)
    again = load_bert(str(folder), dropout=0.0).backbone
    inputs = {"token_ids": ids, "segment_ids": np.zeros_like(ids), "padding_mask": np.ones_like(ids)}
    return float(np.abs(again(inputs)["sequence_output"].numpy() - of_run).max())


@contextmanager
def merged_bert(news: Any) -> Iterator[Bert]:
    """A run's BERT with its LoRA updates in its own kernels, while the context lasts.

    Args:
        news: its `NewsBackbone`.
    """
    changed = []
    for block in news.upper.blocks:
        for name in ("query", "value") if isinstance(block, LoraBlock) else ():
            kernel = getattr(block.attention, f"{name}_dense").kernel  # [hidden, heads, width]
            changed.append((kernel, tf.identity(tf.convert_to_tensor(kernel))))
            down, up = (tf.convert_to_tensor(getattr(block, f"{name}_{end}")) for end in ("down", "up"))
            kernel.assign_add(tf.einsum("dr,rnh->dnh", down, up))
    try:
        yield news.bert
    finally:
        for kernel, value in changed:
            kernel.assign(value)


def _write_writer(parts: TrainedGenerator, folder: Path) -> float:
    """Writes the language model of a generator; the difference of its logits, without a reader."""
    layers, tokenizer = parts.generator.language_model, parts.prompts.tokenizer
    ids = _some_ids(tokenizer.vocabulary_size, layers.max_positions)
    of_run = layers.logits(layers.states(layers.embed(tf.constant(ids)), training=False)).numpy()
    with layers.merged() as backbone:
        save_language_model(backbone, tokenizer, parts.config, folder)
    again = load_language_model(str(folder))
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    logits = again.backbone.token_embedding(again.backbone(inputs), reverse=True).numpy()
    if family_of(again.config) != family_of(parts.config):
        raise FailureError(f"{folder} came back as another family of models: nothing was written")
    return float(np.abs(logits - of_run).max())


def _some_ids(vocabulary: int, longest: int) -> np.ndarray:
    """Two rows of tokens from the whole of a vocabulary, none of them padding."""
    generator = np.random.default_rng(0)
    return generator.integers(1, vocabulary, (2, min(longest, _CHECKED_TOKENS)), dtype=np.int32)
