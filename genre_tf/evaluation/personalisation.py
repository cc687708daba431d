"""Texts written for readers as they are served: do they interest these readers more than other readers?

When the best of several samples is served, the click model has chosen them: what it says of them is weak. So
the first samples, which were not chosen by anything, are compared as well, and click models of two halves of
the readers choose and judge: the judge has learned from other readers, and chose nothing.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.learning_texts import history_titles
from genre_tf.evaluation.scored_log import evenly
from genre_tf.evaluation.scoring import padded
from genre_tf.evaluation.significance import paired_bootstrap
from genre_tf.generation.safety import SafetyClassifier
from genre_tf.generation.writer import (
    WriterOptions,
    WritingGraph,
    Written,
    closeness,
    nothing_unsafe,
    rank,
)
from genre_tf.metrics.text import copy_rate, distinct, rouge, self_bleu
from genre_tf.models.ranker import Ranker
from genre_tf.models.writer import Writer
from genre_tf.text.words import length_in_words

MOST_SHOWN = 20
_MOST_SHOWN_TITLES = 10
_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~])")
Floats = npt.NDArray[np.float32]

BATCH_ROWS = 128  # readers times samples decoded at a time: a few hundred MB for a small model
Titles = Sequence[str]
Measure = Callable[[Sequence[str], Sequence[str]], dict[str, float | None]]
"""(texts, their sources) -> further means of the texts, by name."""
_FOR_OTHER = {
    "written": "for_other_reader",
    "chosen": "chosen_for_other_reader",
    "first_sample": "first_sample_for_other_reader",
}


class ClickModel:
    """Click probabilities of texts for readers, from raw strings as the servable computes them.

    A reader is described by titles only: as in the servable, categories and abstracts of clicks are unknown.
    Titles are encoded once, when the object is created.
    """

    def __init__(self, ranker: Ranker, readers: Sequence[Titles]) -> None:
        self.ranker = ranker
        self.titles = list(dict.fromkeys(["", *chain.from_iterable(readers)]))  # "" pads shorter histories
        self._rows = {title: row for row, title in enumerate(self.titles)}
        self._vectors = ranker.news.encode(self.titles)
        texts, clicked = tf.TensorSpec([None, None], tf.string), tf.TensorSpec([None, None], tf.bool)
        clicks = tf.TensorSpec([None, None, ranker.news.dimension])
        self._of_texts = tf.function(
            lambda texts, clicks, mask: self.interest(self.vectors(texts), clicks, mask),
            input_signature=[texts, clicks, clicked],
            autograph=False,
        )

    def vectors(self, texts: Any) -> Any:
        """string [batch, k] -> float32 [batch, k, D]."""
        news = self.ranker.news
        return tf.reshape(news(tf.reshape(texts, [-1])), tf.concat([tf.shape(texts), [news.dimension]], 0))

    def interest(self, vectors: Any, clicks: Any, mask: Any) -> Any:
        """Click probabilities of texts with these vectors, float32 [batch, k]."""
        shown = tf.ones(tf.shape(vectors)[:2], tf.bool)
        return tf.sigmoid(self.ranker.click_logits(clicks, mask, vectors, shown, None))

    def clicks(self, readers: Sequence[Titles]) -> tuple[Any, Any]:
        """Vectors of the readers' titles, float32 [n, H, D], and a mask of the real ones, bool [n, H]."""
        rows, mask = padded([np.array([self._rows[title] for title in titles], int) for titles in readers])
        return tf.constant(self._vectors[rows]), tf.constant(mask)

    def __call__(self, readers: Sequence[Titles], texts: Sequence[Sequence[str | bytes]]) -> Floats:
        """Click probabilities of k texts for each of n readers: float32 [n, k]."""
        found = []
        for start in range(0, len(readers), BATCH_ROWS):
            some = slice(start, start + BATCH_ROWS)
            batch = tf.constant([list(row) for row in texts[some]])
            found.append(self._of_texts(batch, *self.clicks(readers[some])).numpy())
        return np.concatenate(found)


class ServedWriter:
    """Writes titles for readers and scores them by the click model, from raw strings as the servable does."""

    def __init__(
        self,
        parts: Writer,
        ranker: Ranker,
        readers: Sequence[Titles],
        options: WriterOptions = WriterOptions(),  # noqa: B008  (frozen)
        classifier: SafetyClassifier | None = None,
    ) -> None:
        self.samples = options.samples
        self.click_model = model = ClickModel(ranker, readers)
        self._batch_readers = max(1, BATCH_ROWS // options.rows)
        self._writer = WritingGraph(parts, options)
        texts, clicked = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.bool)
        clicks = tf.TensorSpec([None, None, ranker.news.dimension])

        def write(history: Any, source: Any, seed: Any, for_ranker: Any, mask: Any) -> Any:
            found: dict[Any, Any] = {}  # interest, topic and safety need the same vectors

            def encoded(texts: Any) -> Any:
                if texts.ref() not in found:
                    found[texts.ref()] = model.vectors(texts)
                return found[texts.ref()]

            def topic(written: Any) -> Any:
                parts = (encoded(written), encoded(source[:, None]), for_ranker)
                texts, origin, clicks = map(ranker.news.topic_part, parts)
                return closeness(texts, origin, clicks, mask)

            drawn = self._writer.draw(
                history,
                source,
                tf.fill(tf.shape(source), "title"),
                seed,
                lambda written: model.interest(encoded(written), for_ranker, mask),
                (lambda written: classifier.is_unsafe(encoded(written))) if classifier else nothing_unsafe,
                topic,
            )
            return drawn, rank(drawn, options.floors, self._writer.read_titles(history))

        seeds = tf.TensorSpec([None], tf.int64)
        self._write = tf.function(
            write, input_signature=[texts, texts, seeds, clicks, clicked], autograph=False
        )

    def refresh(self) -> None:
        """Update to the current weights of the generator."""
        self._writer.refresh()

    def __call__(
        self, readers: Sequence[Titles], sources: Titles, seeds: Sequence[int]
    ) -> tuple[Written, Written]:
        """Write a title for each of n readers from each of n sources, with each of n seeds.

        Returns:
            NumPy columns [n, samples]: in drawing order, and in served order.
        """
        found = []
        for rows in self._batches(len(readers)):
            some = [readers[row] for row in rows]
            history = tf.constant(["\n".join(titles) for titles in some])
            source = tf.constant([sources[row] for row in rows])
            seed = tf.constant([seeds[row] for row in rows], tf.int64)
            found.append(self._write(history, source, seed, *self.click_model.clicks(some)))
        drawn, served = (joined(parts) for parts in zip(*found, strict=True))
        return drawn, served

    def chosen_by(self, model: ClickModel, readers: Sequence[Titles], drawn: Written) -> Written:
        """Drawn texts in the order in which they would be served if another click model chose them."""
        found, interest = [], model(readers, drawn.text.tolist())
        for rows in self._batches(len(readers)):
            part = Written(*(tf.constant(column[rows.start : rows.stop]) for column in drawn))
            part = part._replace(interest=tf.constant(interest[rows.start : rows.stop]))
            read = self.read_titles(tf.constant(["\n".join(readers[row]) for row in rows]))
            found.append(rank(part, self._writer.options.floors, read))
        return joined(found)

    def read_titles(self, histories: Any) -> Any:
        """Titles that a text must not repeat; see `WritingGraph.read_titles`."""
        return self._writer.read_titles(histories)

    def _batches(self, count: int) -> Iterator[range]:
        for start in range(0, count, self._batch_readers):
            yield range(start, min(start + self._batch_readers, count))


def joined(parts: Iterable[Written]) -> Written:
    """Texts of several batches as NumPy columns [n, samples]."""
    return Written(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class ReaderOfArticle:
    """A reader, and an article to write a title for."""

    titles: tuple[str, ...]  # of their earlier clicks, oldest first; at least one
    source: str  # the article's abstract
    title: str  # its real title
    clicked: str  # the title that the reader clicked in the impression
    reader: str = ""  # id in the log


def readers_of_articles(
    table: ArticleTable,
    examples: Sequence[ImpressionExample],
    learned: Collection[str],
    count: int,
    least_words: int,
    first: Collection[str] = (),
) -> list[ReaderOfArticle]:
    """Evenly picked readers at their first click, each with an article that the generator has not learned.

    The article is the clicked one, else another one of the impression, else any of the log: most readers
    click articles that were in the news before.
    """
    new = {
        row
        for row, (news_id, title, abstract) in enumerate(
            zip(table.news_ids, table.titles, table.abstracts, strict=True)
        )
        if news_id not in learned and title and length_in_words(abstract) >= least_words
    }
    found: dict[str, ReaderOfArticle] = {}
    for example in examples if new else ():
        titles = history_titles(table, example.history)
        clicked = [row for row in example.candidates[example.labels > 0].tolist() if table.titles[row]]
        if titles and clicked and example.user_id not in found:
            shown = [row for row in example.candidates.tolist() if row in new]
            rows = [row for row in clicked if row in new] or shown or sorted(new)
            row = rows[len(found) % len(rows)]
            found[example.user_id] = ReaderOfArticle(
                titles, table.abstracts[row], table.titles[row], table.titles[clicked[0]], example.user_id
            )
    if len(found) <= count:
        return list(found.values())
    named = [reader for name, reader in found.items() if name in first][:count]
    others = [reader for name, reader in found.items() if name not in first]
    return named + evenly(others, count - len(named))


def personal_metrics(
    writer: ServedWriter,
    readers: Sequence[ReaderOfArticle],
    titles: Sequence[str],
    seed: int = 0,
    *,
    chooser: ClickModel | None = None,
    judge: ClickModel | None = None,
    measure: Measure | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write for each reader and, from the same source with the same seed, for another reader; then compare.

    `chooser` and `judge` are the click models of two halves of the readers (`genre_tf.training.judges`), and
    `measure` gives further means of texts and their sources, such as their fluency.

    Returns:
        The metrics, and for each reader what was written (see `as_markdown`).

        "interest" is the mean probability, according to the served click model, that the reader clicks each
        of the kinds of text of `_written`; "over_..." compares two of them (see `compared`);
        "best_of_samples_margin" is the interest of the served text minus that of the first sample ("mean",
        and "low" to "high", 95% bootstrap over readers). "win_rates": for each kind that is also written for
        another reader, and each click model ("served", "chooser", "judge"), `compared`. "texts": of each of
        these kinds, and of the "real_title", `quality`. Also "readers", "samples" (per reader), what
        `quality` gives of the served texts, "unsafe_rate" of all samples, "unsafe_first" of the first texts,
        and "self_bleu" of the samples from one source.
    """
    texts, served = _written(writer, readers, titles, seed, chooser)
    histories = [reader.titles for reader in readers]
    models = {"served": writer.click_model, "chooser": chooser, "judge": judge}
    columns = list(zip(*texts.values(), strict=True))  # [readers, kinds of text]
    interest = {
        name: dict(zip(texts, model(histories, columns).T, strict=True))
        for name, model in models.items()
        if model is not None
    }

    def over(ours: str, theirs: str, model: str = "served") -> dict[str, Any]:
        same = [one == two for one, two in zip(texts[ours], texts[theirs], strict=True)]
        return compared(interest[model][ours], interest[model][theirs], np.array(same, np.bool_))

    ours = interest["served"]
    found = paired_bootstrap(ours["written"], ours["first_sample"])
    ends = (found.difference, found.low, found.high) if found else (None, None, None)
    of_samples = (self_bleu([_plain(text) for text in row]) for row in served.text)
    similar = [value for value in of_samples if value is not None]
    kinds = [kind for kind in ("first_sample", "chosen", "written") if kind in texts]
    real = [reader.title for reader in readers]
    sources = [reader.source for reader in readers]
    qualities = {
        kind: quality(some, real, sources, measure)
        for kind, some in (*((kind, texts[kind]) for kind in kinds), ("real_title", real))
    }
    metrics = {
        "readers": len(readers),
        "samples": writer.samples,
        "interest": {name: float(values.mean()) for name, values in ours.items()},
        "over_other_reader": over("written", "for_other_reader"),
        "first_sample_over_other_reader": over("first_sample", "first_sample_for_other_reader"),
        "over_clicked_title": over("written", "clicked_title"),
        "over_random_title": over("written", "random_title"),
        "win_rates": {
            kind: {model: over(kind, _FOR_OTHER[kind], model) for model in interest} for kind in kinds
        },
        "texts": qualities,
        "best_of_samples_margin": dict(zip(("mean", "low", "high"), ends, strict=True)),
        **qualities["written"],
        "grounding": float(served.grounding[:, 0].mean()),
        "unsafe_rate": float(1 - served.safe.mean()),
        "unsafe_first": float(1 - served.safe[:, 0].mean()),
        "self_bleu": float(np.mean(similar)) if similar else None,
    }
    return metrics, [_sample(reader, row, served, texts, ours) for row, reader in enumerate(readers)]


def _sample(
    reader: ReaderOfArticle,
    row: int,
    served: Written,
    texts: Mapping[str, Sequence[str]],
    interest: Mapping[str, Floats],
) -> dict[str, Any]:
    """What was written for a reader, beside what they clicked and what was written for another one."""
    kind = "for_other_reader"
    return {
        **written_for(reader, row, served),
        "clicked": reader.clicked,
        "clicked_interest": float(interest["clicked_title"][row]),
        kind: {"text": texts[kind][row], "interest": float(interest[kind][row])},
    }


def quality(
    texts: Sequence[str], real: Sequence[str], sources: Sequence[str], measure: Measure | None = None
) -> dict[str, Any]:
    """ROUGE against the real titles, "distinct2", "copy_rate" from the sources, and what is measured more."""
    return {
        **rouge(texts, real),
        "distinct2": distinct(texts, 2),
        "copy_rate": copy_rate(texts, sources),
        **(measure(texts, sources) if measure else {}),
    }


def _written(
    writer: ServedWriter,
    readers: Sequence[ReaderOfArticle],
    titles: Sequence[str],
    seed: int,
    chooser: ClickModel | None,
) -> tuple[dict[str, list[str]], Written]:
    """A text of each kind for each reader, and everything that was written for them, in served order.

    "written" is the served text; "chosen", of the same samples, the one that the chooser would have served;
    "first_sample" the first text drawn, without any choice; the same three "for_other_reader" are written
    from the same source for another reader; "clicked_title" is a real title that the reader clicked, and
    "random_title" any real title.
    """
    random = np.random.default_rng(seed)
    circle = random.permutation(len(readers))
    other = np.empty_like(circle)
    other[circle] = np.roll(circle, 1)  # nobody is their own other reader
    sources = [reader.source for reader in readers]
    histories, seeds = [reader.titles for reader in readers], list(range(len(readers)))
    others = [histories[at] for at in other]

    def first(written: Written) -> list[str]:
        return [_plain(text) for text in written.text[:, 0]]

    drawn, served = writer(histories, sources, seeds)
    drawn_for_other, served_for_other = writer(others, sources, seeds)
    chosen = {}
    if chooser is not None:
        chosen = {
            "chosen": first(writer.chosen_by(chooser, histories, drawn)),
            _FOR_OTHER["chosen"]: first(writer.chosen_by(chooser, others, drawn_for_other)),
        }
    return {
        "written": first(served),
        "for_other_reader": first(served_for_other),
        "first_sample": first(drawn),
        "first_sample_for_other_reader": first(drawn_for_other),
        **chosen,
        "clicked_title": [reader.clicked for reader in readers],
        "random_title": [titles[at] for at in random.integers(len(titles), size=len(readers))],
    }, served


def compared(ours: Floats, theirs: Floats, equal: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """How often our values, float32 [readers], are above theirs; `equal`: the two texts are the same.

    Returns:
        "pairs" (n); "share_above", the share of pairs in which ours is strictly above, from "share_above_low"
        to "share_above_high"; "share_equal"; and "win_rate" from "low" to "high", which counts a tie as half
        a win, so that 0.5 is chance. Intervals are 95% bootstrap over readers. Empty if there are no pairs.
    """
    wins = np.where(equal | (ours == theirs), 0.5, ours > theirs)
    above = paired_bootstrap((wins == 1).astype(np.float64), np.zeros_like(wins))
    rate = paired_bootstrap(wins, np.zeros_like(wins))
    if above is None or rate is None:
        return {}
    return {
        "pairs": len(wins),
        "share_above": above.difference,
        "share_above_low": above.low,
        "share_above_high": above.high,
        "share_equal": float((wins == 0.5).mean()),
        "win_rate": rate.difference,
        "low": rate.low,
        "high": rate.high,
    }


def written_for(reader: ReaderOfArticle, row: int, served: Written) -> dict[str, Any]:
    """The texts written for a reader, to look at: "reader", "titles", "source", "title" and "written"."""
    return {
        "reader": reader.reader,
        "titles": reader.titles[-_MOST_SHOWN_TITLES:],
        "source": reader.source,
        "title": reader.title,
        "written": [
            {name: _plain(column[row, place]) for name, column in served._asdict().items()}
            for place in range(served.text.shape[1])
        ],
    }


def shown_samples(samples: Sequence[dict[str, Any]], first: Sequence[str] = ()) -> list[dict[str, Any]]:
    """At most `MOST_SHOWN` samples: those of the readers named first, then others, evenly picked."""
    named = [sample for sample in samples if sample.get("reader") in first][:MOST_SHOWN]
    others = [sample for sample in samples if sample not in named]
    return named + evenly(others, MOST_SHOWN - len(named))


def as_markdown(sample: dict[str, Any]) -> str:
    """One reader: what they read, the source, the real title, and every text with its scores."""

    def line(text: dict[str, Any]) -> str:
        scores = f"interest {text['interest']:.4f}, log probability {text['log_probability']:.2f}"
        scores += f", grounding {text['grounding']:.2f}"
        claims = ", ".join(_escaped(claim) for claim in text["unsupported"].split("\n") if claim)
        unsupported = f"; not in the source: {claims}" if claims else ""
        unsafe = "" if text["safe"] else "; unsafe"
        return f"- {_escaped(text['text'])} ({scores}{unsupported}{unsafe})"

    clicked, other = "", ""
    if "clicked" in sample:  # not from `written_for` alone
        clicked = f" Clicked: {_escaped(sample['clicked'])} (interest {sample['clicked_interest']:.4f})"
    if "for_other_reader" in sample:
        of_other = sample["for_other_reader"]
        interest = f"(interest of this reader {of_other['interest']:.4f})"
        other = f"**For another reader:** {_escaped(of_other['text'])} {interest}"
    lines = [
        f"## {_escaped(sample['title'])}",
        f"The real title.{clicked}",
        f"**Source:** {_escaped(sample['source'])}",
        "**The reader's newest titles:**",
        "\n".join(f"- {_escaped(title)}" for title in sample["titles"]),
        "**Written, as served:**",
        "\n".join(map(line, sample["written"])),
        other,
    ]
    return "\n\n".join(line for line in lines if line)


def _escaped(text: str) -> str:
    return _SIGNS.sub(r"\\\1", " ".join(text.split()))


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()
