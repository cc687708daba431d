"""`genre train preference`: a writer learns which of its own texts interest the reader more than others.

For articles of the training days the adapted writer writes for several readers. Every text is a candidate for
each of these readers. The chooser (`genre_tf.training.judges`) says how much more it interests a reader than
the others; only texts that may be shown can be preferred. The writer then learns pairs of texts by direct
preference optimization. The judge has no part in this.
"""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.backbones.trainable import compute_in
from genre_tf.config import RunConfig
from genre_tf.data.learning_texts import TextExample, history_titles
from genre_tf.data.prepared import file_fingerprint
from genre_tf.errors import InputError
from genre_tf.evaluation.personalisation import BATCH_ROWS, ServedWriter
from genre_tf.evaluation.text_measures import Fluency, topic_floor
from genre_tf.files import whole_file
from genre_tf.generation.clickbait import is_clickbait
from genre_tf.generation.writer import Floors, Written, passing, writer_options
from genre_tf.losses.tokens import preference_loss, text_log_probabilities, token_losses
from genre_tf.metrics.text import copy_rate
from genre_tf.models.checkpoint import (
    CACHE_FOLDER,
    CHOOSER,
    FOLDER,
    WEIGHTS_FILE,
    load_generator,
    load_half,
    save_generator_sizes,
)
from genre_tf.models.new_writer import resolved_writer
from genre_tf.models.text_rows import TextRows
from genre_tf.models.writer import Writer
from genre_tf.text.words import length_in_words
from genre_tf.training.distribution import Distribution
from genre_tf.training.judges import readers_of_half, train_half
from genre_tf.training.learner import Learner
from genre_tf.training.loop import Training
from genre_tf.training.progress import Goal, Report
from genre_tf.training.stage_data import StageData
from genre_tf.training.stage_files import StageFiles, fingerprint

_LEAST_WORDS = 8  # of an abstract that is written from
_LEAST_TITLES = 3  # of a reader: fewer say little about taste
_HELD_OUT = 0.1  # share of the articles whose pairs validate
_REAL_TITLES = 200  # give the floor of fluency
_TEXTS = ("history", "source", "kind", "target")
Floats = npt.NDArray[np.float32]
Group = tuple[int, list[tuple[int, ...]]]
"""Row of an article, and for each of its readers the rows of their clicks, oldest first."""


@dataclass(frozen=True)
class Pair:
    """Two texts from one source, the first of which the chooser prefers for a reader."""

    history: tuple[int, ...]  # rows of the reader's clicks, oldest first
    article: int  # row of the article that both texts are written from
    preferred: str
    other: str

    def example(self, target: str, source: str) -> TextExample:
        """One of the texts as a text to learn."""
        return TextExample("title", np.asarray(self.history, np.int32), source, target, self.article)


class PreferenceTrainer(Learner):
    """Direct preference optimization, without dropout, so that only learning moves a text."""

    def __init__(self, model: Writer, beta: float) -> None:
        super().__init__(model)
        self.beta = beta

    def log_probabilities(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Log probability of each whole text, float32 [rows]."""
        return text_log_probabilities(token_losses(self.model, batch, False), tf.shape(batch["labels"])[0])

    def loss_of(self, batch: dict[str, tf.Tensor], training: bool) -> tf.Tensor:
        """`preference_loss` of a batch, float32 []."""
        return preference_loss(self.log_probabilities(batch), batch["reference"], self.beta)


class PairRows:
    """Pairs of texts in batches: the rows of n preferred texts, then those of the n others.

    `reference`, float32 [2, pairs], holds the log probabilities of both by the adapted writer.
    """

    def __init__(self, preferred: TextRows, other: TextRows) -> None:
        self.rows = (preferred, other)
        self.reference = np.zeros((2, len(preferred)), np.float32)

    def __len__(self) -> int:
        return len(self.rows[0])

    def refer_to(self, trainer: PreferenceTrainer, size: int) -> None:
        """Compute the reference, once, with the weights that the writer has now."""
        batches = self.batches(size)
        compute = tf.function(
            trainer.log_probabilities, input_signature=[batches.element_spec], autograph=False
        )
        found = [np.split(compute(batch).numpy(), 2) for batch in batches]
        self.reference = np.concatenate(found, axis=1) if found else self.reference

    def batches(self, size: int, seed: int | None = None, start: int = 0) -> tf.data.Dataset:
        """Batches of token ids as `Prompts.to_learn` gives them, with their reference.

        With a seed they are shuffled in each epoch, endless, and begin with number `start`.
        """
        prompts = self.rows[0].prompts
        texts = dict.fromkeys(_TEXTS, tf.TensorSpec([None], tf.string))
        data = tf.data.Dataset.from_generator(
            lambda: self._parts(size, seed, start),
            output_signature=(texts, tf.TensorSpec([None], tf.float32)),
        )

        def lay_out(texts: dict[str, Any], reference: Any) -> dict[str, Any]:
            rows = prompts.to_learn(*(texts[name] for name in _TEXTS), context_weight=0.0, multiple=8)
            return {**rows, "reference": reference}

        plain = tf.autograph.experimental.do_not_convert(lay_out)
        data = data.map(plain, num_parallel_calls=1, deterministic=True)
        if seed is not None:
            data = data.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        return data.prefetch(2)

    def _parts(self, size: int, seed: int | None, start: int) -> Iterator[tuple[Any, Any]]:
        for places in self._places(size, seed, start):
            texts = [rows.texts_of(places) for rows in self.rows]
            both = {name: np.concatenate([rows[name] for rows in texts]) for name in _TEXTS}
            yield both, self.reference[:, places].reshape(-1)

    def _places(self, size: int, seed: int | None, start: int) -> Iterator[npt.NDArray[np.int64]]:
        in_epoch = -(-len(self) // size)
        if seed is None:
            yield from np.array_split(np.arange(len(self)), in_epoch)
            return
        number = start
        while True:
            order = np.random.default_rng([seed, number // in_epoch]).permutation(len(self))
            yield np.array_split(order, in_epoch)[number % in_epoch]
            number += 1


def ready_preference(
    data: StageData, config: RunConfig, files: StageFiles, report: Report, devices: Distribution
) -> Training:
    """The training of the adapted writer on pairs of its texts; the chooser is trained if it is missing."""
    settings = config.preference
    if devices.replicas > 1 or devices.fixed_shapes:
        raise InputError("preference learning runs on one device: leave out --strategy and --fixed-shapes")
    train_half(data, config, CHOOSER, report)
    keras.utils.set_random_seed(config.seed)
    writer = load_generator(data.run, preference=False)
    writer.adapted = file_fingerprint(data.run / FOLDER / WEIGHTS_FILE)
    shutil.rmtree(files.new, ignore_errors=True)
    files.new.mkdir(parents=True)
    save_generator_sizes(writer, files.new)
    pairs = _kept_pairs(data, config, writer, report)
    learned, held_out = divided(pairs, config.seed)
    if not learned or not held_out:
        raise InputError(
            f"the writer wrote {len(pairs)} pairs of texts that the click model can tell apart and that may "
            "be shown, which is too few to learn from: raise preference.sources or preference.samples, or "
            "adapt the writer longer"
        )
    report(f"{len(learned):,} pairs of texts for training, {len(held_out):,} for validation")
    # As in adaptation: the reference is computed with the same rounding.
    compute_in(resolved_writer(config.generation, data.table.titles).precision, writer.language_model)
    trainer = PreferenceTrainer(writer, settings.beta)

    def rows_of(some: Sequence[Pair]) -> PairRows:
        sides = []
        for name in ("preferred", "other"):
            texts = [pair.example(getattr(pair, name), data.table.abstracts[pair.article]) for pair in some]
            sides.append(TextRows(texts, data.table, writer.prompts))
        found = PairRows(*sides)
        found.refer_to(trainer, settings.optimizer.batch_size)
        return found

    rows, validation = rows_of(learned), rows_of(held_out)
    size, accumulate = settings.optimizer.batch_size, settings.optimizer.accumulate
    in_epoch = -(-len(rows) // size)
    return Training(
        trainer=trainer,
        batches_from=lambda step: rows.batches(size, config.seed, step * accumulate),
        steps=settings.optimizer.steps_of(in_epoch),
        config=settings.optimizer.of_epoch(in_epoch),
        goal=Goal(
            validate=PreferenceValidation(trainer, validation, size, settings.most_distance),
            metric="preference_loss",
            greater_is_better=False,
        ),
        name_rows=lambda start, count: f"batches {start} to {start + count - 1} of the pairs",
    )


class PreferenceValidation:
    """How surely a writer prefers held-out texts, and how far it has moved from the adapted writer."""

    def __init__(self, trainer: PreferenceTrainer, rows: PairRows, size: int, most_distance: float) -> None:
        self.beta, self.most_distance = trainer.beta, most_distance
        self.batches = rows.batches(size).cache()

        def of_batch(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            tokens = tf.reduce_sum(tf.cast(batch["label_weight"] == 1.0, tf.float32), 1)
            return trainer.log_probabilities(batch), batch["reference"], tokens

        self.of_batch = tf.function(of_batch, input_signature=[self.batches.element_spec], autograph=False)

    def __call__(self) -> dict[str, float]:
        """The loss, the share of pairs in the right order, and the distance in nats per token.

        The distance is the mean log probability that texts of the adapted writer have lost, an estimate of
        the Kullback-Leibler divergence from it. Beyond the bound the loss is at least that of the adapted
        writer, log 2, so that such weights are never the best.
        """
        found = [[each.numpy() for each in self.of_batch(batch)] for batch in self.batches]
        now, before, tokens = (
            np.concatenate([np.split(batch[place], 2) for batch in found], axis=1) for place in range(3)
        )
        moved = now - before
        loss = float(np.mean(np.logaddexp(0.0, -self.beta * (moved[0] - moved[1]))))
        distance = float(-moved.sum() / tokens.sum())
        if distance > self.most_distance:
            loss = max(loss, float(np.log(2)))
        right = float(np.mean(moved[0] > moved[1]))
        return {"preference_loss": loss, "right_order": right, "distance": distance}


def divided(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn and pairs to validate with, of different articles."""
    articles = sorted({pair.article for pair in pairs})
    order = np.random.default_rng(seed).permutation(articles).tolist()
    held = {*order[: max(1, round(_HELD_OUT * len(order)))]} if len(order) > 1 else set()
    return [pair for pair in pairs if pair.article not in held], [one for one in pairs if one.article in held]


def _kept_pairs(data: StageData, config: RunConfig, writer: Writer, report: Report) -> list[Pair]:
    """The pairs, sampled once for the same writer, chooser and settings, and kept in the run's cache."""
    what = {name: value for name, value in asdict(config.preference).items() if name != "optimizer"}
    chooser = file_fingerprint(data.run / CHOOSER / WEIGHTS_FILE)
    key = fingerprint(writer.adapted, chooser, config.seed, what, asdict(config.generation.writing))
    file = data.run / CACHE_FOLDER / f"pairs-{key}.json"
    if not file.is_file():
        found = [asdict(pair) for pair in sampled_pairs(data, config, writer, report)]
        file.parent.mkdir(exist_ok=True)
        with whole_file(file) as part:
            part.write_text(json.dumps(found, ensure_ascii=False), "utf-8")
    rows = json.loads(file.read_text("utf-8"))
    return [Pair(**{**row, "history": tuple(row["history"])}) for row in rows]


def sampled_pairs(data: StageData, config: RunConfig, writer: Writer, report: Report) -> list[Pair]:
    """Write from articles of the training days for readers of the chooser's half, and compare the texts."""
    settings, table = config.preference, data.table
    groups = _groups(data, settings.sources, settings.readers, config.seed)
    titles = {rows: history_titles(table, np.asarray(rows, np.int32)) for _, some in groups for rows in some}
    ranker = load_half(data.run, CHOOSER)
    share = config.generation.writing.topic_share
    floor = topic_floor(ranker.news, table.titles, table.abstracts, share)
    options = writer_options(
        config.generation.writing, writer.prompts, samples=settings.samples, topic_floor=floor
    )
    served = ServedWriter(writer, ranker, list(titles.values()), options)
    fluent = _fluent(config, [title for title in table.titles if title], report)
    report(
        f"writing {settings.samples} texts for each of {settings.readers} readers of {len(groups)} articles"
    )
    pairs = []
    for article, readers, drawn in texts_of_groups(served, groups, titles, table.abstracts):
        histories, source = [titles[rows] for rows in readers], table.abstracts[article]
        read = served.read_titles(tf.constant(["\n".join(one) for one in histories]))
        texts = may_be_preferred(drawn, options.floors, read, source)
        texts = [text for text, good in zip(texts, fluent(texts), strict=True) if good]
        if len(texts) < 2:
            continue
        interest = np.clip(served.click_model(histories, [texts] * len(readers)), 1e-6, 1 - 1e-6)
        for reader, better, worse in preferences(np.log(interest / (1 - interest)), settings.least_gap):
            if texts[better] not in histories[reader]:
                pairs.append(Pair(readers[reader], article, texts[better], texts[worse]))
    return pairs


def texts_of_groups(
    served: ServedWriter,
    groups: Sequence[Group],
    titles: Mapping[tuple[int, ...], Sequence[str]],
    sources: Sequence[str],
) -> Iterator[tuple[int, list[tuple[int, ...]], Written]]:
    """The texts for the readers of each article; those of several articles are written together.

    Every article has the same number of readers.
    """
    seeds = itertools.count()
    at_once = max(1, BATCH_ROWS // (served.samples * len(groups[0][1])))
    for start in range(0, len(groups), at_once):
        some = groups[start : start + at_once]
        histories = [titles[rows] for _, readers in some for rows in readers]
        texts = [sources[article] for article, readers in some for _ in readers]
        drawn, _ = served(histories, texts, [next(seeds) for _ in texts])
        parts = [np.array_split(column, len(some)) for column in drawn]
        for (article, readers), *own in zip(some, *parts, strict=True):
            yield article, readers, Written(*own)


def may_be_preferred(drawn: Written, floors: Floors, read: Any, source: str) -> list[str]:
    """Different texts that pass every floor, are not copied whole, and show no sign of clickbait."""
    good = passing(Written(*map(tf.constant, drawn)), floors, read).numpy()
    texts = dict.fromkeys(text.decode("utf-8") for text in drawn.text[good])
    return [text for text in texts if not is_clickbait(text) and copy_rate([text], [source]) != 1.0]


def preferences(log_odds: Floats, least_gap: float) -> list[tuple[int, int, int]]:
    """Pairs (reader, better text, worse text) from log odds of clicks, float32 [readers, texts].

    A text is scored for a reader by its log odds minus their mean over the other readers: what everybody
    clicks is no text for this reader.
    """
    others = (log_odds.sum(axis=0) - log_odds) / (len(log_odds) - 1)
    scores = log_odds - others
    best, worst = scores.argmax(axis=1), scores.argmin(axis=1)
    gaps = scores.max(axis=1) - scores.min(axis=1)
    places = enumerate(zip(best.tolist(), worst.tolist(), gaps.tolist(), strict=True))
    return [(reader, better, worse) for reader, (better, worse, gap) in places if gap > least_gap]


def _groups(data: StageData, sources: int, readers: int, seed: int) -> list[Group]:
    """Articles of the training days, each with the histories of some readers of the chooser's half."""
    random, table = np.random.default_rng(seed), data.table
    own = readers_of_half(data, CHOOSER).train
    shown = [
        row
        for row in own.articles("candidates").tolist()
        if table.titles[row] and length_in_words(table.abstracts[row]) >= _LEAST_WORDS
    ]
    histories: dict[str, tuple[int, ...]] = {}
    for block in own.blocks("user_id", "history"):
        for number, user in enumerate(block.user_id):
            history = block.history[block.history_ends[number] : block.history_ends[number + 1]]
            if len(history) >= _LEAST_TITLES:
                histories[user] = tuple(history.tolist())  # the newest, since the log is in order of time
    known = list(histories.values())
    if not shown or len(known) < readers:
        raise InputError(
            f"preference learning needs articles with abstracts ({len(shown)}) and {readers} readers with at "
            f"least {_LEAST_TITLES} clicks ({len(known)}) in the chooser's half of the training days"
        )
    chosen = random.permutation(shown)[:sources].tolist()
    picked = (random.choice(len(known), readers, replace=False) for _ in chosen)
    return [(row, [known[at] for at in some]) for row, some in zip(chosen, picked, strict=True)]


def _fluent(config: RunConfig, titles: Sequence[str], report: Report) -> Any:
    """Tells which texts are as fluent as real titles, by the unadapted checkpoint; all, if there is none."""
    settings = config.generation
    if settings.is_new or settings.backbone in ("auto", "tiny"):
        report("the writer was not pretrained: nothing tells which of its texts are fluent")
        return lambda texts: [True] * len(texts)
    fluency = Fluency.of(settings.backbone)
    some = np.random.default_rng(config.seed).permutation(len(titles))[:_REAL_TITLES]
    floor = np.quantile(fluency([titles[at] for at in some]), settings.writing.topic_share)
    return lambda texts: fluency(texts) >= floor
