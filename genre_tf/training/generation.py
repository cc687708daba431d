"""Training of the generator: predict the next token of clicked titles and of article texts."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from genre_tf.backbones.trainable import compute_in
from genre_tf.config import GenerationConfig, RunConfig, optimizer_of
from genre_tf.data.learning_texts import (
    TextExample,
    approved_examples,
    first_shown_in,
    learning_split,
)
from genre_tf.errors import InputError
from genre_tf.evaluation.personalisation import ServedWriter, as_markdown, readers_of_articles, written_for
from genre_tf.evaluation.text_measures import topic_floor
from genre_tf.generation.writer import writer_options
from genre_tf.losses.tokens import all_token_losses, mean_token_loss, token_losses
from genre_tf.models.article_features import as_float16
from genre_tf.models.checkpoint import CACHE_FOLDER, load_generator, load_ranker, save_generator_sizes
from genre_tf.models.frozen_rows import MOST_BYTES, FrozenRows, frozen_rows
from genre_tf.models.new_writer import new_generator, resolved_writer
from genre_tf.models.text_rows import TextBatching, TextRows
from genre_tf.models.writer import Writer
from genre_tf.training.distribution import Distribution
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Goal, Report
from genre_tf.training.quality import Quality, judged, shares
from genre_tf.training.stage_data import StageData, Tenths
from genre_tf.training.stage_files import StageFiles

_COUNTED_TEXTS = 20_000  # enough to know how frequent tokens are
_LEAST_WORDS = 8  # minimum length of an abstract that a title is written from
_TOKENS_PER_ROW = 64  # tokens in a batch for each row of the configured batch size


class GenerationTrainer(Learner):
    """Weighted cross-entropy of the next token: full weight on target words, a small weight on context words.

    With fixed shapes logits are computed at every position, because the number of counted positions varies.
    """

    def __init__(self, model: Writer, fixed_shapes: bool = False) -> None:
        super().__init__(model)
        self.fixed_shapes = fixed_shapes

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Weighted mean loss of a batch, float32 []; with several replicas this replica's share."""
        take = all_token_losses if self.fixed_shapes else token_losses
        return mean_token_loss(take(self.model, batch, training))


def ready_generation(
    data: StageData, config: RunConfig, files: StageFiles, report: Report, devices: Distribution
) -> Training:
    """The training of a new writer, or of the earlier run's; the stage's files receive its vocabulary."""
    settings = resolved_writer(config.generation, data.table.titles)
    learned, *held_out = _examples(data, settings, config.seed)
    report(f"{len(learned):,} texts for training, {len(held_out[0]):,} for validation")
    # Until the first weights are written, the weights of an earlier training keep their own vocabulary.
    shutil.rmtree(files.new, ignore_errors=True)
    files.new.mkdir(parents=True)
    keras.utils.set_random_seed(config.seed)
    with devices.strategy.scope():
        if files.start:  # the vocabulary belongs to its weights
            parts = load_generator(files.start, trained=False)
        else:
            parts = new_generator(settings, data.table, files.new, config.seed)
        compute_in(settings.precision, parts.language_model)
        trainer = GenerationTrainer(parts, devices.fixed_shapes)
    report(parts.trained_share())
    save_generator_sizes(parts, files.new)
    rows, *held_out_rows = (TextRows(texts, data.table, parts.prompts) for texts in (learned, *held_out))
    optimizer = optimizer_of(settings)
    batching = _batching(settings, parts.prompts.tokens, devices)
    if len(rows) < batching.rows:
        raise InputError(
            f"{len(rows)} texts do not fill one batch of {batching.rows}, and with fixed shapes an "
            "incomplete batch is skipped; give a smaller --batch-size"
        )
    in_epoch = rows.mean_batches(batching)
    steps = optimizer.steps_of(in_epoch)
    frozen = _frozen_rows(parts, rows, batching, config.seed, steps * optimizer.accumulate, data.run, report)
    perplexity, *of_older = (Perplexity(parts, held, batching.tokens) for held in held_out_rows)
    goal = Goal(
        validate=perplexity,
        metric="perplexity",
        greater_is_better=False,
        validate_older=of_older[0] if of_older else None,
        judge=lambda: perplexity.quality([text.target for text in learned]),
        # Weights spread over several replicas would have to be gathered first.
        show=headlines(parts, data, learned, settings) if devices.replicas == 1 else None,
    )

    def from_step(step: int) -> Any:
        start = step * optimizer.accumulate
        return devices.distribute(
            lambda layout: rows.batches(
                batching, seed=config.seed, epochs=None, layout=layout, start=start, frozen=frozen
            )
        )

    def names_of(start: int, count: int) -> str:
        numbers = rows.row_numbers(batching, config.seed, start, count)
        articles = (data.table.news_ids[learned[number].article] for number in numbers)
        return f"texts of the articles {', '.join(articles)}"

    return Training(
        trainer=trainer,
        batches_from=from_step,
        steps=steps,
        config=optimizer.of_epoch(in_epoch),
        goal=goal,
        jit_compile=devices.jit_compile,
        name_rows=names_of,
    )


def _frozen_rows(
    writer: Writer,
    rows: TextRows,
    batching: TextBatching,
    seed: int,
    batches: int,
    run: Path,
    report: Report,
) -> FrozenRows | None:
    """The states below the trained layers, of all rows that the training will read; None: not kept."""
    layers = writer.language_model
    if not layers.first:
        return None
    forms = rows.forms(batching, seed, batches)
    token_ids = rows.token_ids(forms)
    size = sum(map(len, token_ids)) * layers.hidden * np.dtype(np.float16).itemsize
    if size > MOST_BYTES:
        report(
            f"{layers.first} frozen layers are computed in every step: the states of {len(forms):,} texts "
            f"would take {size / 2**30:.1f} GiB"
        )
        return None
    report(f"computing {layers.first} frozen layers for {len(forms):,} texts (only once)")
    return frozen_rows(writer, forms, token_ids, run / CACHE_FOLDER, Tenths(report, "texts"))


def _batching(settings: GenerationConfig, row_tokens: int, devices: Distribution) -> TextBatching:
    """With fixed shapes a batch has full rows only, the same number for each replica."""
    tokens = optimizer_of(settings).batch_size * _TOKENS_PER_ROW
    rows = max(1, round(tokens / row_tokens / devices.replicas)) * devices.replicas
    return TextBatching(
        tokens=tokens,
        rows=rows if devices.fixed_shapes else 0,
        context_weight=settings.context_weight if settings.is_new else 0.0,
        drop_reader=settings.drop_reader,
        shares=dataclasses.asdict(settings.tasks),
    )


def _examples(data: StageData, settings: GenerationConfig, seed: int) -> list[list[TextExample]]:
    """Texts for training and validation; if the run continues an earlier one, also its held-out texts.

    Approved texts are learned unless they are about an article that is held out.
    """
    newest = data.validation + data.older
    learned, _ = learning_split(data.table, data.train, newest)
    unseen = first_shown_in(newest, data.train)
    learned += [text for text in approved_examples(data.table, data.approved) if text.article not in unseen]
    held_out = [learning_split(data.table, data.train, data.validation)[1]]
    if data.older:
        older = learning_split(data.table, data.train, data.older)[1]
        # Texts that the earlier run memorised would always look forgotten.
        held_out.append([text for text in older if text.article in data.unlearned] or older)
    if not learned or not all(held_out):
        raise InputError("the log holds no clicked article with a title, so there is nothing to train on")
    random = np.random.default_rng(seed)
    some = []
    for number, texts in enumerate((learned, *held_out)):
        most = settings.validation_texts if number else settings.max_examples
        of_tasks = _of_tasks(texts, settings)
        if most and len(of_tasks) > most:
            of_tasks = [of_tasks[index] for index in random.choice(len(of_tasks), most, replace=False)]
        some.append(of_tasks)
    return some


def _of_tasks(examples: list[TextExample], settings: GenerationConfig) -> list[TextExample]:
    """The examples of the selected tasks; all examples if none is selected."""
    shares = dataclasses.asdict(settings.tasks)
    return [text for text in examples if shares[text.task] > 0] or examples


def headlines(
    parts: Writer, data: StageData, learned: Iterable[TextExample], settings: GenerationConfig
) -> Callable[[], Mapping[str, str]] | None:
    """A function that writes titles of unlearned articles for held-out readers, as the servable will.

    It returns Markdown by name: the source, the real title, and each written title with interest and
    grounding. None if nothing can be shown: there are no such readers, none were requested, or no trained
    ranker can score interest.
    """
    ids = {data.table.news_ids[text.article] for text in learned}
    readers = readers_of_articles(data.table, data.validation, ids, settings.shown_readers, _LEAST_WORDS)
    if not readers or not StageFiles(data.run, "ranking", "").trained.is_file():
        return None
    ranker = load_ranker(data.run)
    share = settings.writing.topic_share
    floor = topic_floor(ranker.news, data.table.titles, data.table.abstracts, share)
    writer = ServedWriter(
        parts,
        ranker,
        [reader.titles for reader in readers],
        writer_options(settings.writing, parts.prompts, topic_floor=floor),
    )

    def written() -> dict[str, str]:
        """The same readers, sources and seeds at each call."""
        writer.refresh()
        titles, sources = ([getattr(each, name) for each in readers] for name in ("titles", "source"))
        _, served = writer(titles, sources, range(len(readers)))
        return {
            f"written/{row + 1}": as_markdown(written_for(reader, row, served))
            for row, reader in enumerate(readers)
        }

    return written


class Perplexity:
    """Validation: perplexity per token of the target texts, given their context, by a writer as it is.

    The states below the trained layers are computed once.
    """

    def __init__(self, writer: Writer, rows: TextRows, batch_tokens: int) -> None:
        batching = TextBatching(tokens=batch_tokens, context_weight=0.0)
        self.batches: Any = rows.batches(batching).cache()
        self.prompts = rows.prompts
        spec = dict(self.batches.element_spec)
        if writer.language_model.first:
            below = tf.function(writer.frozen_states, input_signature=[spec["token_ids"]], autograph=False)
            self.batches = [
                {**batch, "frozen_states": as_float16(below(batch["token_ids"]).numpy())}
                for batch in self.batches
            ]
            spec["frozen_states"] = tf.TensorSpec([None, None, writer.language_model.hidden], tf.float16)

        def losses(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            found = token_losses(writer, batch, False)
            labels = tf.gather_nd(batch["labels"], tf.where(batch["label_weight"] > 0))
            return found.losses, labels, found.rows

        # Given the shapes of all batches: one trace.
        self.losses = tf.function(losses, input_signature=[spec], autograph=False)

    def __call__(self) -> dict[str, float]:
        """The "perplexity" per token, and the "loss" in nats per token whose exponential it is."""
        losses = np.concatenate([self.losses(batch)[0].numpy() for batch in self.batches])
        loss = float(losses.mean())
        return {"perplexity": float(np.exp(min(loss, 80.0))), "loss": loss}

    def quality(self, learned: Sequence[str]) -> list[Quality]:
        """The perplexity beside that of a model which only knows how frequent tokens are in learned texts."""
        ids = self.prompts.tokenizer.encode(tf.constant(list(learned)[:_COUNTED_TEXTS])).flat_values.numpy()
        counts = 1 + np.bincount(ids, minlength=self.prompts.tokenizer.vocabulary_size)
        counts[self.prompts.end_id] += min(len(learned), _COUNTED_TEXTS)
        surprise = -np.log(counts / counts.sum())
        ours, unigram, tokens = [], [], []
        for batch in self.batches:
            losses, labels, rows = (each.numpy() for each in self.losses(batch))
            tokens.append(np.bincount(rows))
            ours.append(np.bincount(rows, losses))
            unigram.append(np.bincount(rows, surprise[labels]))
        each = np.concatenate(tokens)
        values, baseline = (shares(np.concatenate(sums), each) for sums in (ours, unigram))
        found = judged("writer", "perplexity", values, {"unigram": baseline})
        return [] if found is None else [found]
