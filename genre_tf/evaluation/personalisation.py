"""Does a text written for a reader interest this reader more than a text written for another reader?

The click model is the judge. When the best of several samples is served, it has also chosen them. Therefore
the first samples, which were not chosen by anything, are compared as well.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.data.columns import ImpressionExample
from genre_tf.data.text_examples import history_titles
from genre_tf.evaluation.scored_log import evenly
from genre_tf.evaluation.served_writer import ServedWriter
from genre_tf.evaluation.significance import paired_bootstrap
from genre_tf.generation.ranking import Written
from genre_tf.metrics.text import copy_rate, distinct, rouge, self_bleu
from genre_tf.text.words import length_in_words

MOST_SHOWN = 20
_MOST_SHOWN_TITLES = 10
_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~])")
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
    return named + evenly(others, count - len(named))


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
        The metrics, and for each reader what was written (see `as_markdown`).

        "interest" is the mean probability, according to the click model, that the reader clicks each of the
        kinds of text of `_written`; "over_..." compares two of them (see `compared`);
        "best_of_samples_margin" and "most_interesting_margin" are the interest of the served and of the most
        interesting text minus that of the first sample ("mean", and "low" to "high", 95% bootstrap over
        readers). Also "readers", "samples" (per reader), "rouge1", "rouge2" and "rougeL" against the
        articles' titles, "distinct2", "copy_rate" and "grounding" of the first texts, "unsafe_rate" of all
        samples, "unsafe_first" of the first texts, and "self_bleu" of the samples from one source.
    """
    texts, served = _written(writer, readers, titles, seed)
    histories = [reader.titles for reader in readers]
    judged = writer.interest(histories, list(zip(*texts.values(), strict=True)))  # [readers, kinds of text]
    interest = dict(zip(texts, judged.T, strict=True))

    def over(ours: str, theirs: str) -> dict[str, Any]:
        same = [one == two for one, two in zip(texts[ours], texts[theirs], strict=True)]
        return compared(interest[ours], interest[theirs], np.array(same, np.bool_))

    def margin(ours: str) -> dict[str, float | None]:
        found = paired_bootstrap(interest[ours], interest["first_sample"])
        ends = (found.difference, found.low, found.high) if found else (None, None, None)
        return dict(zip(("mean", "low", "high"), ends, strict=True))

    metrics = {
        "readers": len(readers),
        "samples": writer.samples,
        "interest": {name: float(values.mean()) for name, values in interest.items()},
        "over_other_reader": over("written", "for_other_reader"),
        "most_interesting_over_other_reader": over("most_interesting", "most_interesting_for_other_reader"),
        "first_sample_over_other_reader": over("first_sample", "first_sample_for_other_reader"),
        "over_clicked_title": over("written", "clicked_title"),
        "over_random_title": over("written", "random_title"),
        "best_of_samples_margin": margin("written"),
        "most_interesting_margin": margin("most_interesting"),
        **_of_texts(served, texts["written"], readers),
    }
    samples = [
        {
            **written_for(reader, row, served),
            "clicked": reader.clicked,
            "clicked_interest": float(interest["clicked_title"][row]),
            "for_other_reader": {
                "text": texts["for_other_reader"][row],
                "interest": float(interest["for_other_reader"][row]),
            },
        }
        for row, reader in enumerate(readers)
    ]
    return metrics, samples


def _written(
    writer: ServedWriter, readers: Sequence[ReaderOfArticle], titles: Sequence[str], seed: int
) -> tuple[dict[str, list[str]], Written]:
    """A text of each kind for each reader, and everything that was written for them, in served order.

    "written" is the served text, chosen by the complete ranking; "most_interesting", of the texts that may be
    shown, the choice of the click model alone; "first_sample" the first text drawn, without any choice; the
    same three "for_other_reader" are written from the same source for another reader; "clicked_title" is a
    real title that the reader clicked, and "random_title" any real title.
    """
    random = np.random.default_rng(seed)
    circle = random.permutation(len(readers))
    other = np.empty_like(circle)
    other[circle] = np.roll(circle, 1)  # nobody is their own other reader
    sources = [reader.source for reader in readers]
    histories, seeds = [reader.titles for reader in readers], list(range(len(readers)))
    drawn, served = writer(histories, sources, seeds)
    drawn_for_other, served_for_other = writer([histories[at] for at in other], sources, seeds)
    return {
        "written": _first(served),
        "most_interesting": _most_interesting(served),
        "for_other_reader": _first(served_for_other),
        "most_interesting_for_other_reader": _most_interesting(served_for_other),
        "first_sample": _first(drawn),
        "first_sample_for_other_reader": _first(drawn_for_other),
        "clicked_title": [reader.clicked for reader in readers],
        "random_title": [titles[at] for at in random.integers(len(titles), size=len(readers))],
    }, served


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
    """One reader: what they read, the source, the real title, and every text with its scores.

    Args:
        sample: from `personal_metrics`, or from `written_for`, which lacks the clicked title and the other
            reader's text.
    """
    clicked, other = "", ""
    if "clicked" in sample:
        clicked = f" Clicked: {_escaped(sample['clicked'])} (interest {sample['clicked_interest']:.4f})"
    if "for_other_reader" in sample:
        other = (
            f"**For another reader:** {_escaped(sample['for_other_reader']['text'])} "
            f"(interest of this reader {sample['for_other_reader']['interest']:.4f})"
        )
    lines = [
        f"## {_escaped(sample['title'])}",
        f"The real title.{clicked}",
        f"**Source:** {_escaped(sample['source'])}",
        "**The reader's newest titles:**",
        "\n".join(f"- {_escaped(title)}" for title in sample["titles"]),
        "**Written, as served:**",
        "\n".join(_line(text) for text in sample["written"]),
        other,
    ]
    return "\n\n".join(line for line in lines if line)


def _line(text: dict[str, Any]) -> str:
    scores = f"interest {text['interest']:.4f}, log probability {text['log_probability']:.2f}"
    claims = ", ".join(_escaped(claim) for claim in text["unsupported"].split("\n") if claim)
    unsupported = f"; not in the source: {claims}" if claims else ""
    unsafe = "" if text["safe"] else "; unsafe"
    return f"- {_escaped(text['text'])} ({scores}, grounding {text['grounding']:.2f}{unsupported}{unsafe})"


def _escaped(text: str) -> str:
    return _SIGNS.sub(r"\\\1", " ".join(text.split()))


def _of_texts(served: Written, texts: list[str], readers: Sequence[ReaderOfArticle]) -> dict[str, Any]:
    alike = [self_bleu([_plain(text) for text in row]) for row in served.text]
    known = [value for value in alike if value is not None]
    return {
        **rouge(texts, [reader.title for reader in readers]),
        "distinct2": distinct(texts, 2),
        "copy_rate": copy_rate(texts, [reader.source for reader in readers]),
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
