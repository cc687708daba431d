"""Training of the generator: predict the next token of clicked titles and of article texts."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.language_models import (
    GPT2,
    LanguageModel,
    check_language_model,
    load_language_model,
    tiny_byte_pair,
)
from genre_tf.backbones.layers import LanguageLayers
from genre_tf.backbones.trainable import check_precision, compute_in, parse_writer_trainable
from genre_tf.config import GenerationConfig, RunConfig, optimizer_of
from genre_tf.data.articles import ArticleTable
from genre_tf.data.text_examples import TextExample, learning_split
from genre_tf.errors import InputError
from genre_tf.generation.grounding import common_words_of
from genre_tf.generation.prompts import CONTROL_TOKENS, PromptSizes
from genre_tf.generation.reader_prefix import UNSEEN
from genre_tf.losses.tokens import all_token_losses, contrast_loss, mean_token_loss, token_losses
from genre_tf.models.checkpoint import (
    load_generator,
    load_two_tower,
    reads_towers_of,
    save_generator_sizes,
    towers_fingerprint,
)
from genre_tf.models.text_model import is_preset
from genre_tf.models.text_rows import ORDINARY, TextBatching, TextRows
from genre_tf.models.writer import Writer, prompt_sizes
from genre_tf.text.byte_pair import train_byte_pair
from genre_tf.text.byte_pair_files import check_vocabulary_size
from genre_tf.training.distribution import Distribution
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import FitResult, Goal, Report
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles
from genre_tf.training.writer_validation import Perplexity, headlines

_READERS_AT_ONCE = 256
Floats = npt.NDArray[np.float32]


class ReaderVectors:
    """One vector per text; the many texts without a reader share one row of zeros.

    It can be indexed like the array [n, D] that it stands for.

    Args:
        vectors: float32 [1 + readers, D]; the first row is zeros, for no reader.
        rows: int32 [n], the row of each text.
    """

    def __init__(self, vectors: Floats, rows: npt.NDArray[np.int32]) -> None:
        self.vectors = vectors
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of texts, and dimension of a vector."""
        return len(self.rows), self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, texts: Any) -> Floats:
        """Vectors of some texts: int [m] -> float32 [m, D]."""
        found: Floats = self.vectors[self.rows[texts]]
        return found


ToVectors = Callable[[Sequence[TextExample]], Any]
"""Texts -> their `ReaderVectors`, typed as the array that they stand for."""


def reader_vectors(run: Path, data: StageData) -> tuple[ToVectors, int]:
    """A function that returns reader vectors of examples, and their dimension.

    Raises:
        InputError: the run has no trained towers.
    """
    towers = load_two_tower(run)
    articles = towers.news.embed(data.features)  # [articles, dimension]
    encode = tf.function(
        lambda history, mask: towers.user_vector(history, mask),
        input_signature=[
            tf.TensorSpec([None, None, articles.shape[1]], articles.dtype),
            tf.TensorSpec([None, None], tf.bool),
        ],
        autograph=False,
    )

    def of_histories(histories: Sequence[npt.NDArray[np.int32]]) -> Any:
        history = np.zeros((len(histories), max(map(len, histories))), np.int32)
        for place, clicks in enumerate(histories):
            history[place, : len(clicks)] = clicks
        return encode(tf.constant(articles[history]), tf.constant(history > 0)).numpy()

    def to_vectors(examples: Sequence[TextExample]) -> ReaderVectors:
        # Sorted by length, so that little of a batch is padding.
        texts = sorted(
            (text for text, example in enumerate(examples) if len(example.history)),
            key=lambda text: len(examples[text].history),
        )
        vectors = np.zeros((1 + len(texts), articles.shape[1]), np.float32)
        rows = np.zeros(len(examples), np.int32)
        rows[texts] = np.arange(1, 1 + len(texts))
        for start in range(0, len(texts), _READERS_AT_ONCE):
            batch = texts[start : start + _READERS_AT_ONCE]
            vectors[1 + start : 1 + start + len(batch)] = of_histories([examples[at].history for at in batch])
        return ReaderVectors(vectors, rows)

    return to_vectors, articles.shape[1]


_TOKENS_PER_ROW = 64  # tokens in a batch for each row of the configured batch size


class GenerationTrainer(Learner):
    """Weighted cross-entropy of the next token: full weight on target words, a small weight on context words.

    With a contrast, second copies of rows (with another reader) are not learned, only compared.

    Args:
        model: the writer.
        fixed_shapes: compute logits at every position, because the number of counted positions varies.
        contrast_weight: weight of the interest-contrastive loss.
    """

    def __init__(self, model: Writer, fixed_shapes: bool = False, contrast_weight: float = 0.0) -> None:
        super().__init__(model)
        self.fixed_shapes = fixed_shapes
        self.contrast_weight = contrast_weight

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """Weighted mean loss of a batch, float32 []; with several replicas this replica's share."""
        take = all_token_losses if self.fixed_shapes else token_losses
        found = take(self.model, batch, training)
        weights = found.weights
        if "contrast_of" in batch:
            weights *= tf.cast(tf.gather(batch["contrast_of"], found.rows) == ORDINARY, tf.float32)
        loss = mean_token_loss(found, weights)
        if "contrast_of" in batch and self.contrast_weight:
            loss += self.contrast_weight * contrast_loss(found, batch["contrast_of"])
        return loss

    def examples_in(self, batch: Any) -> tf.Tensor:
        """Number of rows in this replica's batch, without second copies, float32 []."""
        if "contrast_of" not in batch:
            return super().examples_in(batch)
        return tf.reduce_sum(tf.cast(batch["contrast_of"] == ORDINARY, tf.float32))


def train_generation(
    data: StageData,
    config: RunConfig,
    files: StageFiles,
    report: Report,
    distribution: Distribution | None = None,
) -> FitResult:
    """Train the generator and keep its best weights.

    Args:
        data: data of a run with trained retrieval, whose user vectors the generator reads.
        config: settings of the run.
        files: files of the stage.
        report: takes a line of progress.
        distribution: where to train; None: on one device.

    Raises:
        InputError: the retrieval stage is not trained, the settings leave no room for a prompt or have an
            unknown precision, or there are fewer texts than one batch of fixed shape needs.
    """
    training = ready_generation(
        data, config, files, report, distribution, readers=lambda: reader_vectors(data.run, data)
    )
    return training.fit(files, report)


def ready_generation(
    data: StageData,
    config: RunConfig,
    files: StageFiles,
    report: Report,
    distribution: Distribution | None = None,
    *,
    readers: Callable[[], tuple[ToVectors, int]],
) -> Training:
    """The training of a new writer, or of the earlier run's.

    Args:
        data: data of a run.
        config: settings of the run.
        files: files of the stage; receive the vocabulary.
        report: takes a line of progress.
        distribution: where to train; None: on one device.
        readers: gives the readers' vectors, as `reader_vectors` does.

    Raises:
        InputError: as `train_generation`.
    """
    settings = config.generation
    parse_writer_trainable(settings.trainable)  # checked before minutes of work
    check_precision(settings.precision)
    learned, *held_out = _examples(data, settings, config.seed)
    report(f"{len(learned):,} texts for training, {len(held_out[0]):,} for validation")
    to_vectors, dimension = readers()
    _begin(data.run, files, report)
    keras.utils.set_random_seed(config.seed)
    devices = distribution or Distribution.one()
    with devices.scope():
        parts = _starting_parts(settings, data.table, dimension, files, config.seed)
        parts.towers = towers_fingerprint(data.run)
        trainer = GenerationTrainer(parts, devices.fixed_shapes, settings.contrast)
    report(parts.trained_share())
    save_generator_sizes(parts, files.new)
    rows, *held_out_rows = (
        TextRows(texts, data.table, to_vectors(texts), parts.prompts) for texts in (learned, *held_out)
    )
    optimizer = optimizer_of(settings)
    batching = _batching(settings, parts.prompts.sizes, devices)
    if len(rows) < batching.rows:
        raise InputError(
            f"{len(rows)} texts do not fill one batch of {batching.rows}, and with fixed shapes an "
            "incomplete batch is skipped; give a smaller --batch-size"
        )
    in_epoch = rows.mean_batches(batching)
    steps, optimizer = optimizer.steps_of(in_epoch), optimizer.of_epoch(in_epoch)
    perplexity, *of_older = (Perplexity(parts, each, batching.tokens) for each in held_out_rows)
    goal = Goal(
        validate=perplexity,
        metric="perplexity",
        greater_is_better=False,
        validate_older=of_older[0] if of_older else None,
        judge=lambda: perplexity.quality([text.target for text in learned]),
    )
    if devices.replicas == 1:  # weights spread over several replicas would have to be gathered first
        goal = dataclasses.replace(goal, show=headlines(parts, data, learned, settings))

    def from_step(step: int) -> Any:
        start = step * optimizer.accumulate
        return devices.distribute(
            lambda layout: rows.batches(batching, seed=config.seed, epochs=None, layout=layout, start=start)
        )

    def names_of(start: int, count: int) -> str:
        numbers = rows.row_numbers(batching, config.seed, start, count)
        articles = (data.table.news_ids[learned[number].article] for number in numbers)
        return f"texts of the articles {', '.join(articles)}"

    return Training(
        trainer=trainer,
        batches_from=from_step,
        steps=steps,
        config=optimizer,
        goal=goal,
        jit_compile=devices.jit_compile,
        name_rows=names_of,
    )


def _begin(run: Path, files: StageFiles, report: Report) -> None:
    """Create an empty folder for the files that describe the new generator.

    Until its first weights are written, the weights of an earlier training keep their own vocabulary. An
    unfinished training is not resumed if the towers, whose vectors it read, were trained again since.
    """
    described = files.new if is_preset(files.new) else files.folder
    if files.unfinished and not reads_towers_of(run, described):
        report("retrieval was trained again since this training began; starting over")
        files.forget()
    shutil.rmtree(files.new, ignore_errors=True)
    files.new.mkdir(parents=True)


def _starting_parts(
    settings: GenerationConfig, table: ArticleTable, user_dimension: int, files: StageFiles, seed: int
) -> Writer:
    """A new generator, or the earlier run's, because the vocabulary belongs to its weights."""
    if files.start:
        parts = load_generator(files.start, trained=False)
    else:
        parts = new_generator(settings, table, user_dimension, files.new, seed)
    compute_in(settings.precision, parts.language_model)
    return parts


def _batching(settings: GenerationConfig, sizes: PromptSizes, devices: Distribution) -> TextBatching:
    """Tokens per batch; with fixed shapes, that many full rows, the same number for each replica."""
    tokens = optimizer_of(settings).batch_size * _TOKENS_PER_ROW
    each = max(1, round(tokens / sizes.tokens / devices.replicas)) if devices.fixed_shapes else 0
    return TextBatching(
        tokens=tokens,
        rows=each * devices.replicas,
        context_weight=settings.context_weight,
        drop_source=settings.drop_source,
        drop_reader=settings.drop_reader,
        shares=dataclasses.asdict(settings.tasks),
        contrast=settings.contrast_rows if settings.contrast else 0.0,
    )


def new_generator(
    settings: GenerationConfig, table: ArticleTable, user_dimension: int, folder: Path, seed: int = 0
) -> Writer:
    """A generator to train: the named GPT-2, or a new one with a vocabulary of the articles.

    Args:
        settings: name of the model, or the sizes of a new one.
        table: the corpus.
        user_dimension: dimension of the reader's vector.
        folder: where a new vocabulary is written.
        seed: seed of new weights.

    Raises:
        InputError: the settings leave no room for a prompt, or name a backbone that cannot be read.
    """
    corpus = [text for text in (*table.titles, *table.abstracts) if text]
    if settings.backbone:
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
        user_dimension=user_dimension,
        prefix_tokens=settings.prefix_tokens,
        prefix_bias=UNSEEN if settings.backbone else 0.0,
        common_words=common_words_of(table.titles, table.abstracts),
    )


def check_generation(settings: GenerationConfig, start: Path | None) -> None:
    """Check what `train_generation` will need, in seconds and before the stages that come first.

    Args:
        settings: settings of the generator.
        start: run to continue from, if any, whose generator is used instead of a named or a new one.

    Raises:
        InputError: as in `new_generator`, or the generator of the earlier run cannot be read.
    """
    trainable = parse_writer_trainable(settings.trainable)
    check_precision(settings.precision)
    if start is not None:
        load_generator(start, trained=False)
        return
    if settings.backbone:
        model = check_language_model(settings.backbone)
    else:
        check_vocabulary_size(settings.vocabulary_size, CONTROL_TOKENS)
        tokenizer = tiny_byte_pair(CONTROL_TOKENS)
        sizes = {"heads": settings.heads, "hidden": settings.hidden, "max_tokens": settings.max_tokens}
        model = GPT2.new(tokenizer, layers=1, **sizes)
    layers = LanguageLayers(model.backbone, trainable, [0])
    prompt_sizes(None, settings.max_tokens, layers.max_positions)


def _examples(data: StageData, settings: GenerationConfig, seed: int) -> list[list[TextExample]]:
    """Texts for training and validation; if the run continues an earlier one, also its held-out texts."""
    learned, _ = learning_split(data.table, data.train, data.validation + data.older)
    held_out = [learning_split(data.table, data.train, data.validation)[1]]
    if data.older:
        older = learning_split(data.table, data.train, data.older)[1]
        # Texts that the earlier run memorised would always look forgotten.
        held_out.append([text for text in older if text.article in data.unlearned] or older)
    if not learned or not all(held_out):
        raise InputError("the log holds no clicked article with a title, so there is nothing to train on")
    learned, *held_out = (_of_tasks(each, settings) for each in (learned, *held_out))
    random = np.random.default_rng(seed)
    learned = _some(learned, settings.max_examples, random)
    return [learned, *(_some(each, settings.validation_texts, random) for each in held_out)]


def _of_tasks(examples: list[TextExample], settings: GenerationConfig) -> list[TextExample]:
    """The examples of the selected tasks; all examples if none is selected."""
    shares = dataclasses.asdict(settings.tasks)
    return [text for text in examples if shares[text.task] > 0] or examples


def _some(examples: list[TextExample], most: int, random: np.random.Generator) -> list[TextExample]:
    if not most or len(examples) <= most:
        return examples
    return [examples[index] for index in random.choice(len(examples), most, replace=False)]
