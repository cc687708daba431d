"""Does a text written for a reader interest this reader more than a text written for another reader?

The click model is the judge. When the best of several samples is served, it has also chosen them. Therefore
the first samples, which were not chosen by anything, are compared as well.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.text_examples import history_titles
from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.evaluation.significance import paired_bootstrap
from genre_tf.evaluation.text_metrics import copy_rate, distinct, rouge, self_bleu
from genre_tf.generation.ranking import Written
from genre_tf.text.words import length_in_words

_MOST_SHOWN_TITLES = 10
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ReaderOfArticle:
    """A reader, and an article to write a title for.

    Args:
        titles: titles of their earlier clicks, oldest first; at least one.
        source: the article's abstract.
        title: its real title.
        clicked: the title that the reader clicked in the impression.
        reader: the reader's id in the log.
    """

    titles: tuple[str, ...]
    source: str
    title: str
    clicked: str
    reader: str = ""


class Judged(NamedTuple):
    """Texts for n readers: n strings each; or float32 [n], the click model's probabilities for them.

    Args:
        written: the served text, chosen by the complete ranking (`RankingWeights`).
        most_interesting: among the texts that may be shown, the choice of the click model alone.
        for_other_reader: the text served to another reader, from the same source.
        most_interesting_for_other_reader: among the texts for the other reader, the best for this reader.
        first_sample: the first text drawn, without any choice.
        first_sample_for_other_reader: the same for the other reader.
        clicked_title: a real title that the reader clicked.
        random_title: any real title.
    """

    written: Any
    most_interesting: Any
    for_other_reader: Any
    most_interesting_for_other_reader: Any
    first_sample: Any
    first_sample_for_other_reader: Any
    clicked_title: Any
    random_title: Any


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

    Args:
        table: the articles.
        examples: labelled impressions.
        learned: ids of the articles that the generator was trained on.
        count: maximum number of readers.
        least_words: minimum number of words in an abstract.
        first: readers who are picked before all others.
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
                titles,
                table.abstracts[row],
                table.titles[row],
                table.titles[clicked[0]],
                example.user_id,
            )
    if len(found) <= count:
        return list(found.values())
    named = [reader for name, reader in found.items() if name in first][:count]
    others = [reader for name, reader in found.items() if name not in first]
    rest = count - len(named)
    return named + [others[at * len(others) // rest] for at in range(rest)]


def personal_metrics(
    writer: ServedWriter, readers: Sequence[ReaderOfArticle], titles: Sequence[str], seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write for each reader and, from the same source with the same seed, for another reader; then compare.

    Args:
        writer: must know the titles of these readers.
        readers: at least two.
        titles: real titles, from which random titles are drawn.
        seed: seed of the choice of other readers and random titles.

    Returns:
        The metrics, and for each reader what was written (see `sample_of`). Metrics: "readers", "samples"
        (per reader), "interest" (means of `Judged`), comparisons of the served text with the rest of `Judged`
        (see `compared`), "best_of_samples_margin" and "most_interesting_margin" (interest of the served text,
        and of the text that the click model likes best, minus that of the first sample: "mean", and "low" to
        "high", 95% bootstrap over readers), "rouge1", "rouge2", "rougeL" against the articles' titles,
        "distinct2", "copy_rate" and "grounding" of the first texts, "unsafe_rate" of all samples,
        "unsafe_first" of the first texts, and "self_bleu" of the samples from one source.
    """
    random = np.random.default_rng(seed)
    circle = random.permutation(len(readers))
    other = np.empty_like(circle)
    other[circle] = np.roll(circle, 1)  # nobody is their own other reader
    sources = [reader.source for reader in readers]
    histories = [reader.titles for reader in readers]
    seeds = list(range(len(readers)))
    drawn, served = writer(histories, sources, seeds)
    drawn_for_other, served_for_other = writer([histories[at] for at in other], sources, seeds)
    random_titles = [titles[at] for at in random.integers(len(titles), size=len(readers))]
    real = [reader.title for reader in readers]
    texts = Judged(
        written=_first(served),
        most_interesting=_most_interesting(served),
        for_other_reader=_first(served_for_other),
        most_interesting_for_other_reader=_most_interesting(served_for_other),
        first_sample=_first(drawn),
        first_sample_for_other_reader=_first(drawn_for_other),
        clicked_title=[reader.clicked for reader in readers],
        random_title=random_titles,
    )
    judged = Judged(*writer.interest(histories, list(zip(*texts, strict=True))).T)
    metrics = {
        "readers": len(readers),
        "samples": writer.samples,
        "interest": {name: float(values.mean()) for name, values in judged._asdict().items()},
        **_comparisons(judged, texts),
        **_of_texts(served, texts.written, sources, real),
    }
    rows = zip(readers, range(len(readers)), strict=True)
    return metrics, [
        sample_of(reader, row, served, texts.for_other_reader[row], judged) for reader, row in rows
    ]


def compared(ours: Floats, theirs: Floats, equal: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """How often our values are above theirs.

    Args:
        ours: float32 [n], of n readers.
        theirs: float32 [n].
        equal: bool [n], whether the two texts are the same.

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


def sample_of(
    reader: ReaderOfArticle, row: int, served: Written, for_other: str, judged: Judged
) -> dict[str, Any]:
    """The texts written for a reader and their source, for people to look at."""
    return {
        **written_for(reader, row, served),
        "clicked": reader.clicked,
        "clicked_interest": float(judged.clicked_title[row]),
        "for_other_reader": {"text": for_other, "interest": float(judged.for_other_reader[row])},
    }


def written_for(reader: ReaderOfArticle, row: int, served: Written) -> dict[str, Any]:
    """The same without comparisons: "reader", "titles", "source", "title" and "written"."""
    columns = served._asdict()
    texts = [
        {name: _plain(column[row, place]) for name, column in columns.items()}
        for place in range(served.text.shape[1])
    ]
    titles = reader.titles[-_MOST_SHOWN_TITLES:]
    return {
        "reader": reader.reader,
        "titles": titles,
        "source": reader.source,
        "title": reader.title,
        "written": texts,
    }


def _comparisons(judged: Judged, texts: Judged) -> dict[str, Any]:
    def over(ours: str, theirs: str) -> dict[str, Any]:
        pairs = zip(getattr(texts, ours), getattr(texts, theirs), strict=True)
        same = np.array([one == two for one, two in pairs], np.bool_)
        return compared(getattr(judged, ours), getattr(judged, theirs), same)

    return {
        "over_other_reader": over("written", "for_other_reader"),
        "most_interesting_over_other_reader": over("most_interesting", "most_interesting_for_other_reader"),
        "first_sample_over_other_reader": over("first_sample", "first_sample_for_other_reader"),
        "over_clicked_title": over("written", "clicked_title"),
        "over_random_title": over("written", "random_title"),
        "best_of_samples_margin": _margin(judged.written, judged.first_sample),
        "most_interesting_margin": _margin(judged.most_interesting, judged.first_sample),
    }


def _margin(ours: Floats, theirs: Floats) -> dict[str, float | None]:
    found = paired_bootstrap(ours, theirs)
    if found is None:
        return {"mean": None, "low": None, "high": None}
    return {"mean": found.difference, "low": found.low, "high": found.high}


def _of_texts(
    served: Written, texts: Sequence[str], sources: Sequence[str], real: Sequence[str]
) -> dict[str, Any]:
    alike = [self_bleu([_plain(text) for text in row]) for row in served.text]
    known = [value for value in alike if value is not None]
    return {
        **rouge(texts, real),
        "distinct2": distinct(texts, 2),
        "copy_rate": copy_rate(texts, sources),
        "grounding": float(served.grounding[:, 0].mean()),
        "unsafe_rate": float(1 - served.safe.mean()),
        "unsafe_first": float(1 - served.safe[:, 0].mean()),
        "self_bleu": float(np.mean(known)) if known else None,
    }


def _first(written: Written) -> list[str]:
    return [_plain(text) for text in written.text[:, 0]]


def _most_interesting(written: Written) -> list[str]:
    """Per row, the most interesting of the texts that may be shown; if there is none, the first text."""
    shown = written.safe & (written.text != b"")
    place = np.argmax(np.where(shown, written.interest, -1.0), axis=1)
    return [_plain(row[at]) for row, at in zip(written.text, place, strict=True)]


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()
