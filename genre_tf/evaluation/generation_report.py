"""Quality of the generator: headlines written from abstracts, and perplexity of clicked titles."""

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.config import WritingConfig
from genre_tf.data.articles import Article, ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.text_examples import history_text
from genre_tf.evaluation.scored_log import ScoredLog
from genre_tf.evaluation.scoring import TwoTowerScorer
from genre_tf.evaluation.text_metrics import copy_rate, distinct, perplexity, rouge
from genre_tf.generation.prompts import Prompts
from genre_tf.generation.writer import WritingGraph
from genre_tf.generation.writer_options import writer_options
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
    log: ScoredLog,
    examples: Sequence[ImpressionExample],
    learned: Collection[str],
    writing: WritingConfig,
) -> dict[str, Any]:
    """Measure a generator on articles that it was not trained on.

    Args:
        parts: the writer and what belongs to it.
        towers: give the readers' vectors.
        log: the split.
        examples: its impressions.
        learned: ids of the articles that it was trained on.
        writing: how the run writes; see `likeliest_titles`.

    Returns:
        "perplexity" and "bits_per_character" of clicked titles, given reader and abstract; the perplexity
        also without the abstract and without the reader; ROUGE, distinct-n, grounding, "copy_rate" and
        "unsafe_rate" of the likeliest headlines written from abstracts without a reader; the number of each;
        and the baselines that copy the beginning of the abstract. None if the split has no such article.
    """
    clicks = clicked_titles(log.table, examples, towers, parts.prompts, learned)
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
    return _evenly(fit, MAX_HEADLINES)


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
    clicks = _evenly(clicks, MAX_CLICKS)
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
    loss, tokens = title_loss(clicks)
    no_source = [ClickedTitle(row.history, "", row.title, row.user_vector) for row in clicks]
    no_reader = [ClickedTitle("", row.source, row.title, np.zeros_like(row.user_vector)) for row in clicks]
    characters = sum(len(row.title) for row in clicks)
    return {
        "perplexity": perplexity(loss, tokens),
        "perplexity_without_source": perplexity(*title_loss(no_source)),
        "perplexity_without_reader": perplexity(*title_loss(no_reader)),
        # Unlike perplexity it does not depend on the size of the vocabulary.
        "bits_per_character": loss / math.log(2) / characters if characters else None,
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
    strategy = "greedy" if writing.strategy == "greedy" else "beam"
    one = dataclasses.replace(writing, strategy=strategy, samples=1, beam_groups=1, draft_tokens=0)
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


def _evenly(rows: list[Any], count: int) -> list[Any]:
    """At most `count` of the rows, evenly picked."""
    if len(rows) <= count:
        return rows
    return [rows[at * len(rows) // count] for at in range(count)]
