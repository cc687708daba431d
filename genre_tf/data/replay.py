"""Examples of an earlier run, added to a new log: to train on them again and to measure forgetting."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genre_tf.data.articles import ArticleTable, write_articles
from genre_tf.data.columns import ImpressionColumns, write_block
from genre_tf.data.log_writing import SHARD_IMPRESSIONS, LogSummary
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
from genre_tf.data.records import read_articles, read_examples
from genre_tf.data.text_examples import first_shown_in
from genre_tf.errors import InputError
from genre_tf.files import whole_folder

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
    train: ImpressionColumns
    validation: ImpressionColumns
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
    settings = {"replay_share": replay_share, "seed": seed}
    inputs = {f"new {PREPARED_FOLDER}": file_fingerprint(run / PREPARED_FOLDER / MANIFEST_FILE)}
    for folder in sources:
        load_manifest(folder)
        inputs[f"earlier {folder.name}"] = file_fingerprint(folder / MANIFEST_FILE)
    if is_current(run / OLDER_FOLDER, settings, inputs, max_bad_rows=0):
        return
    counts = [new["splits"][split]["impressions"] for split in SPLITS]
    learned = ImpressionColumns([])
    for folder in sources:
        learned += read_examples(folder, SPLITS[0])
    held_out = read_examples(sources[0], SPLITS[1])
    drawn = _drawn(learned, round(counts[0] * replay_share / (1 - replay_share)), seed)
    known = read_articles(sources[-1])  # the table of the last folder has the rows of both
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "inputs": inputs,
        _UNLEARNED: sorted(known.news_ids[row] for row in first_shown_in(held_out, learned)),
    }
    begins = load_manifest(sources[0])["validation_seconds"]
    _write(run, known, drawn + held_out, sum(counts), begins, manifest)


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


def _drawn(examples: ImpressionColumns, most: int, seed: int) -> ImpressionColumns:
    if len(examples) <= most:
        return examples
    chosen = np.random.default_rng(seed).choice(len(examples), most, replace=False)
    return examples[np.sort(chosen)]


def _write(
    run: Path,
    known: ArticleTable,
    examples: ImpressionColumns,
    first_number: int,
    begins: int | None,
    manifest: dict[str, Any],
) -> None:
    """Write a table of the new articles and those that the examples use, and the examples with its rows.

    The examples are numbered after those of the new log, so that a number identifies one impression of a run.
    """
    further = (known.articles[row] for row in examples.articles("history", "candidates") if row)
    table = ArticleTable.of(read_articles(run / PREPARED_FOLDER).articles[1:], further)
    row_of = table.rows(known.news_ids)
    with whole_folder(run / OLDER_FOLDER) as folder:
        write_articles(folder / ARTICLES_FILE, table.articles[1:])
        shards = 0
        for block in examples.blocks(size=SHARD_IMPRESSIONS):
            number = first_number + shards * SHARD_IMPRESSIONS
            moved = replace(
                block,
                impression=np.arange(number, number + len(block)),
                history=row_of[block.history],
                candidates=row_of[block.candidates],
            )
            write_block(folder / shard_name(shards), moved)
            shards += 1
        summary = LogSummary(shards, examples.has_weights, begins).add(examples)
        manifest = manifest | {
            "articles": len(table) - 1,
            "article_table": table.fingerprint,
            **summary.as_values(),
            "outputs": output_fingerprints(folder),
        }
        write_manifest(manifest, folder)
