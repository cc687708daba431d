"""Quality of a run's writer: its headlines, the perplexity of clicked titles, and its texts for readers."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import RunConfig, WritingConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.counters import Counters
from genre_tf.data.learning_texts import history_text, history_titles
from genre_tf.data.prepared import COUNTERS_FILE, read_articles
from genre_tf.errors import InputError
from genre_tf.evaluation.personalisation import (
    BATCH_ROWS,
    ClickModel,
    Measure,
    ServedWriter,
    personal_metrics,
    readers_of_articles,
    shown_samples,
)
from genre_tf.evaluation.scored_log import FEW_CLICKS, ScoredLog, evenly
from genre_tf.evaluation.scoring import Measured, ModelScorer, has_generator
from genre_tf.evaluation.significance import paired_bootstrap
from genre_tf.evaluation.text_measures import Fluency, topic, topic_floor
from genre_tf.generation.grounding import FUNCTION_WORDS, Grounding
from genre_tf.generation.safety import load_classifier
from genre_tf.generation.writer import WritingGraph, writer_options
from genre_tf.losses.tokens import token_losses
from genre_tf.metrics.ranking import ranking_metrics
from genre_tf.metrics.text import copy_rate, distinct, perplexity, rouge, sentiment
from genre_tf.models.checkpoint import (
    CHOOSER,
    JUDGE,
    WEIGHTS_FILE,
    load_half,
    load_ranker,
    untrained_generator,
)
from genre_tf.models.new_writer import writer_of
from genre_tf.models.news_encoder import NewsEncoder
from genre_tf.models.writer import Writer
from genre_tf.text.words import beginning, length_in_words

MIN_ABSTRACT_WORDS = 8  # shorter abstracts give too little to write from
MAX_HEADLINES = 200  # ROUGE moves by about 0.01 between samples
MAX_CLICKS = 250  # perplexity is known to about 6%; each context reads them, and all contexts the same ones
_BATCH_TEXTS = 32
# Writing for them costs 5 texts each; more readers would only make the interval narrower than matters.
MOST_IMPRESSIONS = 1000

Write = Callable[[Sequence[ImpressionExample], int], list[list[str]]]
"""(one example per reader, n) -> n titles for each, best first, written from interest alone."""


@dataclass(frozen=True)
class ClickedTitle:
    """A title that a reader clicked, with the reader's history as text and a source to write it from."""

    history: str
    source: str
    title: str


def generation_metrics(
    parts: Writer, measured: Measured, learned: Collection[str], writing: WritingConfig
) -> dict[str, Any]:
    """Measure a generator on articles that it was not trained on.

    Returns:
        "perplexity" and "bits_per_character" of clicked titles, given reader and abstract; the perplexity
        also without the abstract, with the reader's newest titles instead of the nearest to the abstract,
        and without the reader; ROUGE, distinct-n, grounding, "copy_rate" and "unsafe_rate" of the likeliest
        headlines written from abstracts without a reader; their "sentiment" and that of the real titles, from
        -1 to 1; the number of each; and the baselines that copy the beginning of the abstract. None if the
        split has no such article.
    """
    log = measured.log
    table = log.table
    new = [
        (example, row)
        for example in measured.examples
        for row in example.candidates[example.labels > 0].tolist()
        if table.titles[row] and table.news_ids[row] not in learned
    ]
    clicks = [
        ClickedTitle(history_text(table, example.history), table.abstracts[row], table.titles[row])
        for example, row in evenly(new, MAX_CLICKS)
    ]
    articles = headline_articles(log.split.articles.values(), learned)
    sources, titles = [article.abstract for article in articles], [article.title for article in articles]
    headlines = written_titles(parts, sources, writing)
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
        "sentiment": sentiment(written),
        "sentiment_of_titles": sentiment(titles),
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


def likelihood_metrics(parts: Writer, clicks: Sequence[ClickedTitle]) -> dict[str, Any]:
    """Perplexity of clicked titles: with all context, and without parts of it."""
    title_loss = title_losses(parts)
    most = parts.prompts.sizes.history_titles
    contexts = {
        "perplexity": clicks,
        "perplexity_newest_titles": [
            replace(row, history="\n".join(row.history.split("\n")[-most:])) for row in clicks
        ],
        "perplexity_without_source": [replace(row, source="") for row in clicks],
        "perplexity_without_reader": [replace(row, history="") for row in clicks],
    }
    losses = {name: title_loss(rows) for name, rows in contexts.items()}
    characters = sum(len(row.title) for row in clicks)
    return {
        **{name: perplexity(*loss) if clicks else None for name, loss in losses.items()},
        # Unlike perplexity it does not depend on the size of the vocabulary.
        "bits_per_character": losses["perplexity"][0] / math.log(2) / characters if characters else None,
    }


def title_losses(parts: Writer) -> Callable[[Sequence[ClickedTitle]], tuple[float, int]]:
    """The loss in nats of the titles and their ends, given their contexts, and their number of tokens."""
    texts = tf.TensorSpec([None], tf.string)

    @tf.function(input_signature=[texts, texts, texts], autograph=False)
    def of_batch(history: Any, source: Any, title: Any) -> tuple[Any, Any]:
        kind = tf.fill(tf.shape(title), "title")
        rows = parts.prompts.to_learn(history, source, kind, title, context_weight=0.0)
        losses = token_losses(parts, rows, False).losses
        return tf.reduce_sum(losses), tf.size(losses)

    def title_loss(clicks: Sequence[ClickedTitle]) -> tuple[float, int]:
        in_length = sorted(clicks, key=lambda row: len(row.history) + len(row.source))
        found = [(0.0, 0)]
        for batch in _batches(in_length):
            columns = zip(*((row.history, row.source, row.title) for row in batch), strict=True)
            loss, count = of_batch(*map(tf.constant, columns))
            found.append((float(loss), int(count)))
        return sum(loss for loss, _ in found), sum(count for _, count in found)

    return title_loss


class Headlines(NamedTuple):
    """One title per source, their mean grounding and the unsafe share (None without sources)."""

    titles: list[str]
    grounding: float | None
    unsafe_rate: float | None


def written_titles(parts: Writer, sources: Sequence[str], writing: WritingConfig) -> Headlines:
    """The best title of each source by these settings, written for no particular reader."""
    options = writer_options(replace(writing, draft_tokens=0), parts.prompts)
    writer = WritingGraph(parts, options)
    specs = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)]

    @tf.function(input_signature=specs, autograph=False)
    def write(source: Any, seed: Any) -> tuple[Any, Any, Any]:
        batch = tf.shape(source)
        written = writer(
            tf.fill(batch, ""),
            source,
            tf.fill(batch, "title"),
            seed,
            lambda text: tf.zeros(tf.shape(text)),  # no reader's interest
        )
        return written.text[:, 0], written.grounding[:, 0], written.safe[:, 0]

    titles: list[str] = []
    grounding: list[float] = []
    safe: list[bool] = []
    most = max(1, BATCH_ROWS // options.rows)
    for start in range(0, len(sources), most):
        batch = list(sources[start : start + most])
        text, grounded, shown = write(tf.constant(batch), tf.range(start, start + len(batch), dtype=tf.int64))
        titles += [row.decode() for row in text.numpy()]
        grounding += grounded.numpy().tolist()
        safe += shown.numpy().tolist()
    if not titles:
        return Headlines([], None, None)
    return Headlines(titles, float(np.mean(grounding)), 1 - float(np.mean(safe)))


def _batches(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _BATCH_TEXTS):
        yield rows[start : start + _BATCH_TEXTS]


def cold_impressions(log: ScoredLog, most: int = MOST_IMPRESSIONS) -> tuple[list[int], int]:
    """Impressions with an AUC (a click, and an article that was not clicked) of readers with few clicks.

    Returns:
        Positions in the split of at most so many, evenly picked, and the total number.
    """
    few = [
        at
        for at, row in enumerate(log.split.impressions)
        if len(row.history) <= FEW_CLICKS and len({*(row.clicked or ())}) == 2
    ]
    return evenly(few, most), len(few)


def cold_start(
    examples: Sequence[ImpressionExample],
    clicked: Sequence[npt.NDArray[np.bool_]],
    scorers: Mapping[str, ModelScorer],
    articles: int,
    write: Write,
) -> dict[str, Any]:
    """Score impressions of readers with few clicks, with and without written articles in their histories.

    A history is filled up to `FEW_CLICKS`; written articles come before the real ones, as if they were older.
    The idea is GENRE's (Liu et al., "ONCE: Boosting Content-based Recommendation with Both Open- and
    Closed-source Large Language Models", WSDM 2024), which writes news for readers with at most five clicks.

    Returns:
        "impressions", "readers" and "written" (articles); for each model "auc" without and "auc_filled" with
        the written articles, and their "difference" with its 95% bootstrap interval over impressions.
    """
    readers = list({reader_of(example): example for example in examples}.values())
    titles = dict(zip(map(reader_of, readers), write(readers, FEW_CLICKS), strict=True))
    filled, written = fill_histories(examples, titles, articles)
    extra = ArticleTable(written)
    report: dict[str, Any] = {"impressions": len(examples), "readers": len(readers), "written": len(written)}
    for name, scorer in scorers.items():
        before = ranking_metrics(scorer(examples), clicked)["auc"]
        after = ranking_metrics(scorer.with_articles(extra)(filled), clicked)["auc"]
        difference = paired_bootstrap(after, before)
        report[name] = {
            "auc": float(np.nanmean(before)),
            "auc_filled": float(np.nanmean(after)),
            "difference": asdict(difference) if difference else None,
        }
    return report


def fill_histories(
    examples: Sequence[ImpressionExample], titles: Mapping[tuple[Any, ...], Sequence[str]], first_row: int
) -> tuple[list[ImpressionExample], list[Article]]:
    """Put written articles, the best one newest, before the clicks of readers with few clicks.

    The written articles, without duplicates, are rows of the table from `first_row` on.
    """
    rows: dict[str, int] = {}
    filled = []
    for example in examples:
        room = max(FEW_CLICKS - len(example.history), 0)
        chosen = [title for title in titles[reader_of(example)] if title][:room]
        new = [rows.setdefault(title, first_row + len(rows)) for title in chosen]
        history = np.concatenate([np.array(new[::-1], np.int32), example.history])
        filled.append(replace(example, history=history, history_weights=None))
    return filled, [Article(f"written-{row}", "", "", title, "") for title, row in rows.items()]


def reader_of(example: ImpressionExample) -> tuple[Any, ...]:
    """The reader that a text is written for; after further clicks they count as another reader."""
    return (example.user_id, *example.history.tolist())


@dataclass(frozen=True)
class WriterEvaluation:
    """Measures the writer of a run."""

    run: Path
    config: RunConfig
    measured: Measured
    say: Callable[[str], None]

    def metrics(self, *, before: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """`generation_metrics` and, if `before` is set, those of the initial generator."""
        found, start = self._metrics_of(self._writer), {}
        if before and has_generator(self.run):
            try:
                start = self._metrics_of(untrained_generator(self.run, self.config.generation))
            except InputError as error:  # its checkpoint is no longer available
                self.say(f"skipping the generator before training: {error}")
        return found, start

    def personal(
        self, most: int, samples: int | None, first: Sequence[str] = ()
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Metrics of texts written for readers of the split, and some samples."""
        log, examples, *_ = self.measured
        readers = readers_of_articles(log.table, examples, self._learned, most, MIN_ABSTRACT_WORDS, first)
        if len(readers) < 2:
            self.say("fewer than two readers have articles unknown to the generator; writing nothing")
            return {}, []
        writer = self._served([reader.titles for reader in readers], samples)
        self.say(f"writing {writer.samples} texts for each of {len(readers)} readers and for another reader")
        titles = [title for title in log.table.titles if title]
        halves = self._halves([reader.titles for reader in readers])
        measure = self._measure(writer.click_model.ranker.news)
        metrics, found = personal_metrics(
            writer, readers, titles, self.config.seed, **halves, measure=measure
        )
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

        def write(readers: Sequence[ImpressionExample], count: int) -> list[list[str]]:
            """As the server does; without unsafe titles."""
            histories = [history_titles(log.table, example.history) for example in readers]
            _, served = writer(histories, [""] * len(readers), range(len(readers)))
            return [
                [text.decode() for text, fit in zip(*row, strict=True) if fit][:count]
                for row in zip(served.text, served.safe, strict=True)
            ]

        found = cold_start(cold, labels, scorers, len(log.table), write)
        return {**found, "of_impressions": there_are}

    @cached_property
    def writer(self) -> Writer | None:
        """The writer that is measured, if there is one."""
        return writer_of(self.run, self.config, read_articles(self.run / "prepared"), self.say)

    @property
    def _writer(self) -> Writer:
        if self.writer is None:
            raise InputError(f"{self.run} has no writer; run: genre train generation --run {self.run}")
        return self.writer

    @cached_property
    def _learned(self) -> frozenset[str]:
        # The counters also include articles that earlier runs showed, and so learned.
        counted = Counters.load(self.run / "prepared" / COUNTERS_FILE).views.keys()
        return frozenset(read_articles(self.run / "prepared").news_ids) | counted

    def _halves(self, readers: Sequence[Sequence[str]]) -> dict[str, ClickModel]:
        """The click models of both halves of the readers, by name; none if one was not trained."""
        if not all((self.run / half / WEIGHTS_FILE).is_file() for half in (CHOOSER, JUDGE)):
            return {}
        return {half: ClickModel(load_half(self.run, half), readers) for half in (CHOOSER, JUDGE)}

    @cached_property
    def _fluency(self) -> Fluency | None:
        """By the checkpoint that the writer was adapted from; None if it is new or no longer there."""
        settings = self.config.generation
        if settings.is_new or settings.backbone in ("auto", "tiny"):
            return None
        try:
            return Fluency.of(settings.backbone)
        except InputError as error:
            self.say(f"fluency is not measured: {error}")
            return None

    def _measure(self, encoder: NewsEncoder) -> Measure:
        """The mean grounding, topic and, if a checkpoint can tell, fluency of texts."""
        grounding = Grounding(self._writer.common_words or FUNCTION_WORDS)

        def measure(texts: Sequence[str], sources: Sequence[str]) -> dict[str, float | None]:
            batches = zip(_batches(texts), _batches(sources), strict=True)
            shares = [grounding(tf.constant(some)[:, None], tf.constant(of)).numpy() for some, of in batches]
            return {
                "grounding": float(np.concatenate(shares).mean()),
                "topic": float(topic(encoder, texts, sources).mean()),
                "fluency": None if self._fluency is None else float(self._fluency(texts).mean()),
            }

        return measure

    def _metrics_of(self, parts: Writer) -> dict[str, Any]:
        writing = self.config.generation.writing
        return generation_metrics(parts, self.measured, self._learned, writing)

    def _served(self, histories: Sequence[Sequence[str]], samples: int | None) -> ServedWriter:
        """The writer for readers with these titles, as it is served; None: the served number of samples."""
        writing = self.config.generation.writing
        parts, ranker = self._writer, load_ranker(self.run)
        learned = read_articles(self.run / "prepared")
        floor = topic_floor(ranker.news, learned.titles, learned.abstracts, writing.topic_share)
        return ServedWriter(
            parts,
            ranker,
            histories,
            writer_options(writing, parts.prompts, samples=samples, topic_floor=floor),
            load_classifier(self.run, self.run / "ranking" / WEIGHTS_FILE),
        )
