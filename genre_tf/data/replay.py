"""Examples of an earlier run, added to a new log: to train on them again and to measure forgetting."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genre_tf.data.articles import ArticleTable
from genre_tf.data.examples import ImpressionExample
from genre_tf.data.folders import whole_folder
from genre_tf.data.log_writing import LogSummary, SplitSummary
from genre_tf.data.manifest import (
    ARTICLES_FILE,
    FORMAT,
    MANIFEST_FILE,
    SPLITS,
    file_fingerprint,
    is_current,
    load_manifest,
    output_fingerprints,
    shard_name,
    write_manifest,
)
from genre_tf.data.records import read_articles, read_examples, write_articles
from genre_tf.data.text_examples import first_shown_in
from genre_tf.errors import InputError

PREPARED_FOLDER = "prepared"
OLDER_FOLDER = "older"
_UNLEARNED = "unlearned"


@dataclass(frozen=True)
class OlderExamples:
    """Examples that a run takes over from an earlier one.

    Attributes:
        table: the articles of the new log, in their rows, then the others that these examples use.
        train: examples to learn again.
        validation: every example that the earlier run held out.
        unlearned: rows of the articles that only its held-out examples show.
    """

    table: ArticleTable
    train: list[ImpressionExample]
    validation: list[ImpressionExample]
    unlearned: frozenset[int]


def write_older(run: Path, earlier_run: Path, replay_share: float, seed: int) -> None:
    """Draw examples of an earlier run into `run/older`, a prepared folder; not changed if it is up to date.

    They are drawn evenly from the training examples of the earlier run, which may itself be such a mixture.
    At a share of one half, the share of a past day halves with each new day, and the folder does not grow.

    Args:
        run: the new run, its log prepared.
        earlier_run: the run that it continues.
        replay_share: share of old examples in the training examples of both; at least 0 and below 1.
        seed: random seed of the draw.

    Raises:
        InputError: a wrong share, or the earlier run lost its prepared examples.
        FailureError: the folder cannot be written.
    """
    if not 0 <= replay_share < 1:
        raise InputError(f"--replay must be at least 0 and below 1; got {replay_share}")
    sources = [
        folder
        for folder in (earlier_run / PREPARED_FOLDER, earlier_run / OLDER_FOLDER)
        if folder.name == PREPARED_FOLDER or folder.is_dir()
    ]
    new = load_manifest(run / PREPARED_FOLDER)
    settings = {"replay_share": replay_share, "seed": seed, "shards": 1}
    inputs = {f"new {PREPARED_FOLDER}": file_fingerprint(run / PREPARED_FOLDER / MANIFEST_FILE)}
    for folder in sources:
        load_manifest(folder)
        inputs[f"earlier {folder.name}"] = file_fingerprint(folder / MANIFEST_FILE)
    if is_current(run / OLDER_FOLDER, settings, inputs, max_bad_rows=0):
        return
    counts = [new["splits"][split]["impressions"] for split in SPLITS]
    learned = [example for folder in sources for example in read_examples(folder, SPLITS[0])]
    held_out = read_examples(sources[0], SPLITS[1])
    drawn = _drawn(learned, round(counts[0] * replay_share / (1 - replay_share)), seed)
    # The table of the last folder has the rows of both.
    table, examples = _joined(run, read_articles(sources[-1]), drawn, held_out, sum(counts))
    unlearned = first_shown_in(held_out, learned)
    news_ids = read_articles(sources[-1]).news_ids
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "inputs": inputs,
        _UNLEARNED: sorted(news_ids[row] for row in unlearned),
    }
    _write(run / OLDER_FOLDER, table, examples, manifest)


def read_older(run: Path) -> OlderExamples:
    """Read what `write_older` wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    folder = run / OLDER_FOLDER
    table = read_articles(folder)
    train, validation = (read_examples(folder, split) for split in SPLITS)
    unlearned = table.rows(load_manifest(folder)[_UNLEARNED]).tolist()
    return OlderExamples(table, train, validation, frozenset(unlearned))


def _drawn(examples: list[ImpressionExample], most: int, seed: int) -> list[ImpressionExample]:
    if len(examples) <= most:
        return examples
    chosen = np.random.default_rng(seed).choice(len(examples), most, replace=False)
    return [examples[place] for place in np.sort(chosen).tolist()]


def _joined(
    run: Path,
    known: ArticleTable,
    train: Sequence[ImpressionExample],
    validation: Sequence[ImpressionExample],
    first_number: int,
) -> tuple[ArticleTable, dict[str, list[ImpressionExample]]]:
    """A table of the new articles and those that the examples use, and the examples with its rows.

    The examples are numbered after those of the new log, so that a number identifies one impression of a run.
    """
    named = {
        row
        for example in (*train, *validation)
        for rows in (example.history, example.candidates)
        for row in rows.tolist()
    }
    further = (known.articles[row] for row in sorted(named - {0}))
    table = ArticleTable.of(read_articles(run / PREPARED_FOLDER).articles[1:], further)
    row_of = table.rows(known.news_ids)
    numbered = enumerate((*train, *validation), first_number)
    moved = [_moved(example, number, row_of) for number, example in numbered]
    return table, dict(zip(SPLITS, (moved[: len(train)], moved[len(train) :]), strict=True))


def _moved(example: ImpressionExample, number: int, row_of: npt.NDArray[np.int32]) -> ImpressionExample:
    return dataclasses.replace(
        example,
        impression=number,
        history=row_of[example.history],
        candidates=row_of[example.candidates],
    )


def _write(
    out: Path,
    table: ArticleTable,
    examples: dict[str, list[ImpressionExample]],
    manifest: dict[str, Any],
) -> None:
    from genre_tf.data.serialization import example_record, write_records

    summary = LogSummary({name: SplitSummary.merged(map(SplitSummary.of, examples[name])) for name in SPLITS})
    with whole_folder(out) as folder:
        write_articles(folder / ARTICLES_FILE, table)
        for name in SPLITS:
            write_records(folder / shard_name(name, 0, 1), map(example_record, examples[name]))
        manifest = manifest | {
            "articles": len(table) - 1,
            "article_table": table.fingerprint,
            "splits": summary.as_values(),
            "outputs": output_fingerprints(folder),
        }
        write_manifest(manifest, folder)
