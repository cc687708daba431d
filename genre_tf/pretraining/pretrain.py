"""`genre pretrain`: adapt a language model to unlabelled article text, or train a new one on it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from genre_tf.config import OptimizerConfig, RunConfig
from genre_tf.data.learning_texts import Corpus, NewsTexts, read_corpus, read_unseen
from genre_tf.errors import InputError
from genre_tf.metrics.text import WORD_END_NOTE, TextLoss, UnigramModel, perplexity, word_count
from genre_tf.models.text_model import load_own_weights
from genre_tf.pretraining.corpus_statistics import LONGEST_CORPUS, SmoothedNgrams, start_embeddings
from genre_tf.pretraining.language_models import (
    LanguageModel,
    LanguageTrainer,
    Measured,
    causal_language_model,
    masked_language_model,
)
from genre_tf.pretraining.packed_batches import PackedBatches
from genre_tf.training.distribution import Distribution
from genre_tf.training.loop import Training
from genre_tf.training.progress import FitResult, Goal, Report
from genre_tf.training.stage_files import StageFiles, fingerprint, run_lock


def packed_corpus(
    language_model: LanguageModel,
    trainer: LanguageTrainer,
    corpus: Sequence[str],
    config: RunConfig,
    optimizer: OptimizerConfig,
    jit_compile: bool,
) -> PackedBatches:
    """Batches to train on.

    The token embeddings of a new model start from which tokens occur near each other. A new causal model
    whose corpus fits into memory also learns from n-grams, which the trainer receives; their share of the
    targets falls from all to the configured final value. With `jit_compile` they are left out, because their
    number varies from batch to batch.
    """
    texts, settings, width = language_model.tokenize(corpus), config.pretrain, language_model.width
    if language_model.name is not None:
        return PackedBatches(texts, width, optimizer.batch_size, config.seed)
    table = language_model.model.backbone.token_embedding.embeddings
    vocabulary, hidden = table.shape
    if settings.start_embeddings:
        table.assign(start_embeddings(texts.inputs, vocabulary, hidden, config.seed))
    longest = settings.smoothing_tokens
    if (
        not jit_compile
        and texts.labels is not None
        and longest >= 2
        and texts.lengths.sum() <= LONGEST_CORPUS
    ):
        trainer.ngrams = SmoothedNgrams(texts.inputs, texts.labels, vocabulary, longest)
        texts = dataclasses.replace(texts, contexts=trainer.ngrams.contexts)
    packed = PackedBatches(texts, width, optimizer.batch_size, config.seed)
    batches = optimizer.steps_of(packed.in_epoch) * optimizer.accumulate
    fall = 1.0 - settings.smoothing_end
    packed.smoothing = lambda number: 1.0 - fall * min(1.0, number / batches)
    return packed


STAGE = "pretraining"
Losses = dict[str, dict[str, TextLoss]]
"""By name of the set (`held_out` or a split), then by kind of text."""


def pretrain(
    kind: str,
    data: Path,
    out: Path,
    config: RunConfig,
    report: Report,
    *,
    splits: Sequence[str] = ("train",),
    evaluate: Sequence[tuple[Path, str]] = (),
    distribution: Distribution | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Pretrain into a Hugging Face folder, and measure before and after.

    The same call again resumes an interrupted training, and keeps a finished one.

    Args:
        kind: "gpt2" or "bert".
        data: a data set.
        out: the folder: a model for `transformers` and for every `--…backbone`, with `pretraining/` (state),
            `logs/` (TensorBoard) and `reports/` beside it.
        config: its `pretrain` section, and the seed.
        report: takes a line of progress.
        splits: splits whose articles are learned.
        evaluate: data sets and splits whose unseen articles are also measured.
        distribution: where to train; None: on one device.
        again: train again from the start, even if already trained.

    Returns:
        The content of `out/reports/pretraining.json`.

    Raises:
        InputError: wrong data or settings, or the folder is in use or holds something else.
        FailureError: a file cannot be written, or a loss became NaN.
        StoppedError: SIGTERM or Ctrl-C was received, and the state was saved.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder")
    if out.is_dir() and not (out / STAGE).is_dir() and {each.name for each in out.iterdir()} - {".lock"}:
        raise InputError(f"{out} holds something other than a pretraining; give a new folder")
    if config.pretrain.backbone and Path(config.pretrain.backbone).resolve() == out.resolve():
        raise InputError(f"{out} is the backbone itself; give another --out")
    settings = config.data
    corpus = read_corpus(
        data, splits, config.pretrain.validation_share, settings.max_bad_rows, settings.max_history
    )
    sets = {"held_out": corpus.held_out}
    for folder, split in evaluate:
        sets[f"{folder}:{split}"] = read_unseen(folder, split, corpus, settings.max_bad_rows)
    report(
        f"{len(corpus.learned.titles)} titles and {len(corpus.learned.abstracts)} abstracts for training, "
        f"{len(corpus.held_out.titles)} and {len(corpus.held_out.abstracts)} held out"
    )
    with run_lock(out):
        (out / STAGE).mkdir(exist_ok=True)  # from here on the folder is a pretraining, even if interrupted
        return _pretrain(kind, corpus, sets, out, config, report, distribution or Distribution.one(), again)


def _pretrain(
    kind: str,
    corpus: Corpus,
    sets: Mapping[str, NewsTexts],
    out: Path,
    config: RunConfig,
    report: Report,
    devices: Distribution,
    again: bool,
) -> dict[str, Any]:
    keras.utils.set_random_seed(config.seed)
    with devices.strategy.scope():
        if kind == "bert":
            language_model = masked_language_model(config.pretrain, corpus.learned.all, config.seed)
        else:
            # Not beside the weights: weights of an earlier training in that folder have their own vocabulary.
            vocabulary = out / STAGE
            language_model = causal_language_model(
                config.pretrain, corpus.learned.all, vocabulary, config.seed
            )
        trainer = LanguageTrainer(language_model.model)
    weights = hashlib.sha256()  # initial weights determine the result too
    if language_model.name:
        for weight in language_model.model.weights:
            weights.update(np.asarray(weight).tobytes())
    made_from = fingerprint(
        kind, corpus.fingerprint, config.seed, asdict(config.pretrain), weights.hexdigest()
    )
    files, file = StageFiles(out, STAGE, made_from), out / "reports" / f"{STAGE}.json"
    if again and files.finished() is not None:  # else it is unfinished: the same command resumes it
        files.forget()
    written = _written(file, files, sets)
    if written is not None:
        report(f"{out} is pretrained with this data and these settings; kept (--again trains again)")
        return written
    measures = {
        name: {kind: Measured(language_model, found) for kind, found in texts.kinds.items()}
        for name, texts in sets.items()
    }

    def losses() -> Losses:
        return {name: {kind: each.loss() for kind, each in of.items()} for name, of in measures.items()}

    before = losses()
    result = files.finished()
    if result is None:
        training = _training(trainer, language_model, corpus, config, report, devices)
        result = training.fit(files, report)
        files.finish(result)
    else:
        load_own_weights(language_model.model, files.trained)
    language_model.save(out)
    found = _report(kind, language_model, corpus, sets, before, losses(), result)
    file.write_text(json.dumps({**found, "made_from": made_from}, indent=2) + "\n", "utf-8")
    return found


def _training(
    trainer: LanguageTrainer,
    language_model: LanguageModel,
    corpus: Corpus,
    config: RunConfig,
    report: Report,
    devices: Distribution,
) -> Training:
    settings = config.pretrain.optimizer
    if language_model.name:
        settings = dataclasses.replace(settings, learning_rate=config.pretrain.checkpoint_rate)
    packed = packed_corpus(language_model, trainer, corpus.learned.all, config, settings, devices.jit_compile)
    texts = packed.texts
    if trainer.ngrams is not None:
        report(f"the first targets are n-gram expectations ({config.pretrain.smoothing_tokens} tokens)")
    full = packed.tokens / settings.batch_size / language_model.width
    report(
        f"{int(texts.lengths.sum())} tokens per epoch, {packed.in_epoch} batches of {settings.batch_size} "
        f"rows of {language_model.width} tokens, {full:.1%} full"
    )

    def from_step(step: int) -> Any:
        start = step * settings.accumulate
        return devices.distribute(lambda layout: packed.batches(layout, start))

    def name_rows(start: int, count: int) -> str:
        return f"texts {', '.join(map(str, packed.text_numbers(start, count)))} (titles, then abstracts)"

    return Training(
        trainer=trainer,
        batches_from=from_step,
        steps=settings.steps_of(packed.in_epoch),
        config=settings.of_epoch(packed.in_epoch),
        goal=Goal(
            validate=Measured(language_model, corpus.held_out.all),
            metric="perplexity",
            greater_is_better=False,
        ),
        jit_compile=devices.jit_compile,
        name_rows=name_rows,
    )


def _report(
    kind: str,
    language_model: LanguageModel,
    corpus: Corpus,
    sets: Mapping[str, NewsTexts],
    before: Losses,
    after: Losses,
    result: FitResult,
) -> dict[str, Any]:
    unigram = UnigramModel(corpus.learned.all) if kind == "gpt2" else None

    def row(name: str, texts_of: str) -> dict[str, Any]:
        texts = sets[name].kinds[texts_of]
        words, first, last = word_count(texts), before[name][texts_of], after[name][texts_of]
        found: dict[str, Any] = {"texts": len(texts), "words": words, "predicted_tokens": last.tokens}
        found |= {"per_token_before": first.per_token, "per_token": last.per_token}
        if unigram is not None:
            found["per_word_before"] = perplexity(first.nats, words)
            found["per_word"] = perplexity(last.nats, words)
            found["unigram_per_word"] = unigram.per_word(texts)
        return found

    return {
        "model": kind,
        "backbone": language_model.name,
        "parameters": sum(int(np.prod(weight.shape)) for weight in language_model.model.weights),
        "learned": {name: len(texts) for name, texts in corpus.learned.kinds.items()},
        "training": asdict(result),
        "perplexity": {name: {each: row(name, each) for each in kinds} for name, kinds in after.items()},
        "definition": WORD_END_NOTE if unigram is not None else "per masked token, always the same tokens",
    }


def _written(file: Path, files: StageFiles, sets: Mapping[str, NewsTexts]) -> dict[str, Any] | None:
    """The report of the same training, if it measured the same sets and nothing is missing."""
    try:
        found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    same = (
        found.pop("made_from", None) == files.made_from and found.get("perplexity", {}).keys() == sets.keys()
    )
    whole = files.finished() is not None and (files.run / "model.safetensors").is_file()
    return found if same and whole else None
