"""Quality of a run's writer: its headlines, the perplexity of clicked titles, and its texts for readers."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import RunConfig, WritingConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import Counters
from genre_tf.data.manifest import COUNTERS_FILE
from genre_tf.data.records import read_articles
from genre_tf.data.text_examples import history_text, history_titles
from genre_tf.errors import InputError
from genre_tf.evaluation.cold_start import cold_impressions, cold_start, from_interest
from genre_tf.evaluation.personalisation import personal_metrics, readers_of_articles, shown_samples
from genre_tf.evaluation.scored_log import FEW_CLICKS, evenly
from genre_tf.evaluation.scoring import Measured, TwoTowerScorer, load_scorers
from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.generation.prompts import Prompts
from genre_tf.generation.safety import load_classifier
from genre_tf.generation.writer import WritingGraph
from genre_tf.generation.writer_options import writer_options
from genre_tf.metrics.text import copy_rate, distinct, perplexity, rouge
from genre_tf.models.checkpoint import (
    WEIGHTS_FILE,
    load_generator,
    load_news_encoder,
    load_ranker,
    load_two_tower,
    untrained_generator,
)
from genre_tf.models.writer import Writer
from genre_tf.text.words import beginning, length_in_words

MIN_ABSTRACT_WORDS = 8  # shorter abstracts give too little to write from
MAX_HEADLINES = 200  # ROUGE moves by about 0.01 between samples
MAX_CLICKS = 500  # perplexity is known to about 4%; a 135M writer reads them in 2 minutes on two cores
_BATCH_TEXTS = 32


@dataclass(frozen=True)
class ClickedTitle:
    """A title that a reader clicked: history text, source to write it from, and the reader's vector."""

    history: str
    source: str
    title: str
    user_vector: npt.NDArray[np.float32]


def generation_metrics(
    parts: Writer,
    towers: TwoTowerScorer,
    measured: Measured,
    learned: Collection[str],
    writing: WritingConfig,
) -> dict[str, Any]:
    """Measure a generator on articles that it was not trained on.

    Args:
        parts: the writer and what belongs to it.
        towers: give the readers' vectors.
        measured: the split.
        learned: ids of the articles that it was trained on.
        writing: how the run writes; see `likeliest_titles`.

    Returns:
        "perplexity" and "bits_per_character" of clicked titles, given reader and abstract; the perplexity
        also without the abstract and without the reader; ROUGE, distinct-n, grounding, "copy_rate" and
        "unsafe_rate" of the likeliest headlines written from abstracts without a reader; the number of each;
        and the baselines that copy the beginning of the abstract. None if the split has no such article.
    """
    log = measured.log
    clicks = clicked_titles(log.table, measured.examples, towers, parts.prompts, learned)
    articles = headline_articles(log.split.articles.values(), learned)
    sources, titles = [article.abstract for article in articles], [article.title for article in articles]
    headlines = likeliest_titles(parts, sources, writing)
    written = headlines.titles
    copied = {
        f"first_{count}_words": rouge([beginning(text, count) for text in sources], titles)
        for count in (10, 15)
    }
    return {
        **likelihood_metrics(parts, clicks),
        **rouge(written, titles),
        "distinct1": distinct(written, 1),
        "distinct2": distinct(written, 2),
        "grounding": headlines.grounding,
        "copy_rate": copy_rate(written, sources),
        "unsafe_rate": headlines.unsafe_rate,
        "clicked_titles": len(clicks),
        "headlines": len(articles),
        "baselines": copied,
    }


def headline_articles(articles: Collection[Article], learned: Collection[str]) -> list[Article]:
    """Unlearned articles with a title and an abstract that is long enough, evenly picked."""
    fit = [
        article
        for article in articles
        if article.news_id not in learned
        and article.title
        and length_in_words(article.abstract) >= MIN_ABSTRACT_WORDS
    ]
    return evenly(fit, MAX_HEADLINES)


def clicked_titles(
    table: ArticleTable,
    examples: Sequence[ImpressionExample],
    towers: TwoTowerScorer,
    prompts: Prompts,
    learned: Collection[str],
) -> list[ClickedTitle]:
    """Clicked titles of unlearned articles, with their readers, evenly picked."""
    clicks = [
        (example, row)
        for example in examples
        for row in example.candidates[example.labels > 0].tolist()
        if table.titles[row] and table.news_ids[row] not in learned
    ]
    clicks = evenly(clicks, MAX_CLICKS)
    readers = towers.user_vectors([example for example, _ in clicks])
    newest = prompts.sizes.history_titles
    return [
        ClickedTitle(
            history_text(table, example.history[-newest:]), table.abstracts[row], table.titles[row], reader
        )
        for (example, row), reader in zip(clicks, readers, strict=True)
    ]


def likelihood_metrics(parts: Writer, clicks: Sequence[ClickedTitle]) -> dict[str, float | None]:
    """Perplexity of clicked titles: with all context, and without parts of it."""
    title_loss = TitleLoss(parts)
    contexts = {
        "perplexity": clicks,
        "perplexity_without_source": [replace(row, source="") for row in clicks],
        "perplexity_without_reader": [
            replace(row, history="", user_vector=np.zeros_like(row.user_vector)) for row in clicks
        ],
    }
    losses = {name: title_loss(rows) for name, rows in contexts.items()}
    characters = sum(len(row.title) for row in clicks)
    return {
        **{name: perplexity(*loss) if clicks else None for name, loss in losses.items()},
        # Unlike perplexity it does not depend on the size of the vocabulary.
        "bits_per_character": losses["perplexity"][0] / math.log(2) / characters if characters else None,
    }


class TitleLoss:
    """The teacher-forcing loss of titles.

    Args:
        parts: the writer.
    """

    def __init__(self, parts: Writer) -> None:
        texts = tf.TensorSpec([None], tf.string)
        readers = tf.TensorSpec([None, parts.reader_prefix.user_dimension], tf.float32)

        @tf.function(input_signature=[texts, texts, texts, readers], autograph=False)
        def of_batch(history: Any, source: Any, title: Any, user_vector: Any) -> tuple[Any, Any]:
            kind = tf.fill(tf.shape(title), "title")
            rows = parts.prompts.to_learn(history, source, kind, title, context_weight=0.0)
            states = parts.states({**rows, "user_vector": user_vector}, training=False)
            of_title = tf.where(rows["label_weight"] > 0)  # [tokens, 2]
            logits = parts.logits(tf.gather_nd(states, of_title))  # [tokens, vocabulary]
            labels = tf.gather_nd(rows["labels"], of_title)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))
            return tf.reduce_sum(losses), tf.size(losses)

        self._of_batch = of_batch

    def __call__(self, clicks: Sequence[ClickedTitle]) -> tuple[float, int]:
        """Loss in nats, summed over all tokens of the titles and their ends, and the token count."""
        total, tokens = 0.0, 0
        in_length = sorted(clicks, key=lambda row: len(row.history) + len(row.source))
        for batch in _batches(in_length):
            texts = [
                tf.constant([getattr(row, name) for row in batch]) for name in ("history", "source", "title")
            ]
            loss, count = self._of_batch(*texts, tf.constant(np.stack([row.user_vector for row in batch])))
            total, tokens = total + float(loss), tokens + int(count)
        return total, tokens


class Headlines(NamedTuple):
    """One title per source, their mean grounding and the unsafe share (None without sources)."""

    titles: list[str]
    grounding: float | None
    unsafe_rate: float | None


def likeliest_titles(
    parts: Writer, sources: Sequence[str], writing: WritingConfig | None = None
) -> Headlines:
    """The likeliest title of each source, written for no particular reader.

    Args:
        parts: the writer.
        sources: texts to write from.
        writing: its lengths, words and beam are used. Samples, which differ every time, are replaced by a
            beam search; it finds likelier titles than a greedy choice, which is kept if configured.
    """
    writing = writing or WritingConfig()
    strategy: Literal["greedy", "beam"] = "greedy" if writing.strategy == "greedy" else "beam"
    one = replace(writing, strategy=strategy, samples=1, beam_groups=1, draft_tokens=0)
    options = writer_options(one, parts.prompts)
    writer = WritingGraph(parts, options)
    dimension = parts.reader_prefix.user_dimension

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def write(source: Any) -> tuple[Any, Any, Any]:
        batch = tf.shape(source)
        written = writer(
            tf.fill(batch, ""),
            source,
            tf.fill(batch, "title"),
            tf.zeros(batch, tf.int64),
            tf.zeros([batch[0], dimension]),
            lambda text: tf.zeros(tf.shape(text)),  # no reader's interest
        )
        return written.text[:, 0], written.grounding[:, 0], written.safe[:, 0]

    titles: list[str] = []
    grounding: list[float] = []
    safe: list[bool] = []
    for batch in _batches(sources):
        text, grounded, shown = write(tf.constant(list(batch)))
        titles += [row.decode() for row in text.numpy()]
        grounding += grounded.numpy().tolist()
        safe += shown.numpy().tolist()
    if not titles:
        return Headlines([], None, None)
    return Headlines(titles, float(np.mean(grounding)), 1 - float(np.mean(safe)))


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _BATCH_TEXTS):
        yield rows[start : start + _BATCH_TEXTS]


@dataclass(frozen=True)
class WriterEvaluation:
    """Measures the writer of a run.

    Args:
        run: the run folder.
        config: its settings.
        measured: the trained models and the split.
        say: takes a line of progress.
    """

    run: Path
    config: RunConfig
    measured: Measured
    say: Callable[[str], None]

    def metrics(self, *, before: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """`generation_metrics` and, if `before` is set, those of the initial generator."""
        found = self._metrics_of(load_generator(self.run))
        untrained = self._untrained() if before else None
        return found, self._metrics_of(untrained) if untrained else {}

    def personal(
        self, most: int, samples: int | None, first: Sequence[str] = ()
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Metrics of texts written for readers of the split, and some samples.

        Args:
            most: maximum number of readers.
            samples: texts per reader, from which the ranking chooses one; None: the served number.
            first: readers who must be among them, and among the samples, if something can be written for
                them.
        """
        log, examples, *_ = self.measured
        readers = readers_of_articles(log.table, examples, self._learned, most, MIN_ABSTRACT_WORDS, first)
        if len(readers) < 2:
            self.say("fewer than two readers have articles unknown to the generator; writing nothing")
            return {}, []
        writer = self._served([reader.titles for reader in readers], samples)
        self.say(f"writing {writer.samples} texts for each of {len(readers)} readers and for another reader")
        titles = [title for title in log.table.titles if title]
        metrics, found = personal_metrics(writer, readers, titles, self.config.seed)
        return metrics, shown_samples(found, first)

    def cold_start(self) -> dict[str, Any]:
        """The effect of written articles on the ranking for readers with few clicks; empty if none."""
        log, examples, clicked, scorers = self.measured
        few, there_are = cold_impressions(log)
        if not few:
            return {}
        self.say(f"adding written articles to the histories of {len(few)} impressions with few clicks")
        cold, labels = [examples[at] for at in few], [clicked[at] for at in few]
        writer = self._served([history_titles(log.table, row.history) for row in cold], FEW_CLICKS)
        found = cold_start(cold, labels, scorers, len(log.table), from_interest(writer, log.table))
        return {**found, "of_impressions": there_are}

    @cached_property
    def _learned(self) -> frozenset[str]:
        # The counters also include articles that earlier runs showed, and so learned.
        counted = Counters.load(self.run / "prepared" / COUNTERS_FILE).views.keys()
        return frozenset(read_articles(self.run / "prepared").news_ids) | counted

    @cached_property
    def _towers(self) -> TwoTowerScorer:
        log, _, _, scorers = self.measured
        towers = scorers.get("two_tower") or load_scorers(self.run, ("two_tower",), log.table)["two_tower"]
        return cast(TwoTowerScorer, towers)

    def _metrics_of(self, parts: Writer) -> dict[str, Any]:
        writing = self.config.generation.writing
        return generation_metrics(parts, self._towers, self.measured, self._learned, writing)

    def _untrained(self) -> Writer | None:
        """The generator before training; None if its checkpoint is no longer available."""
        try:
            return untrained_generator(self.run, self.config.generation.backbone)
        except InputError as error:
            self.say(f"skipping the generator before training: {error}")
            return None

    def _served(self, histories: Sequence[Sequence[str]], samples: int | None) -> ServedWriter:
        """The writer for readers with these titles, as it is served; None: the served number of samples."""
        shared = load_news_encoder(self.run, self.config)
        parts = load_generator(self.run)
        return ServedWriter(
            parts,
            load_two_tower(self.run, shared=shared),
            load_ranker(self.run, shared=shared),
            histories,
            writer_options(self.config.generation.writing, parts.prompts, samples=samples),
            load_classifier(self.run, self.run / "ranking" / WEIGHTS_FILE),
        )
