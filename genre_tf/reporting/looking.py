"""The models themselves in TensorBoard: articles and readers in one space, and the graph."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from genre_tf.evaluation.evaluate import Measured
from genre_tf.evaluation.report import log_folder
from genre_tf.evaluation.scoring import RankerScorer, TwoTowerScorer

MOST_ARTICLES = 2000  # t-SNE in a browser handles some thousand points, and the file stays below 15 MB
MOST_READERS = 400
VECTORS_FILE, LABELS_FILE = "vectors.tsv", "labels.tsv"
COLUMNS = ("label", "kind", "category", "clicks", "views")


def log_models(measured: Measured, run: Path, split: str) -> None:
    """Write the projector's files and the click model's graph to `logs/evaluation/SPLIT`."""
    folder = log_folder(run, split)
    folder.mkdir(parents=True, exist_ok=True)
    towers = measured.scorers.get("two_tower")
    if isinstance(towers, TwoTowerScorer):
        _write_space(measured, towers, folder)
    for name in ("ranker", "ranker_counters"):
        scorer = measured.scorers.get(name)
        if isinstance(scorer, RankerScorer):
            writer = tf.summary.create_file_writer(str(folder), filename_suffix=".graph")
            with writer.as_default(step=0):
                tf.summary.graph(_graph_of(scorer.ranker))
            writer.close()
            return


def _write_space(measured: Measured, towers: TwoTowerScorer, folder: Path) -> None:
    """The vectors whose dot products are the retrieval scores, with their labels."""
    table, examples = measured.log.table, measured.examples
    views = np.zeros(len(table), np.int64)
    clicks = np.zeros(len(table), np.int64)
    for example in examples:
        np.add.at(views, example.candidates, 1)
        np.add.at(clicks, example.candidates, example.labels > 0)
    views[0] = 0  # articles that are not in the table
    rows = [row for row in np.argsort(-views, kind="stable")[:MOST_ARTICLES].tolist() if views[row]]
    readers = list({example.user_id: example for example in examples if len(example.history)}.values())
    count = min(MOST_READERS, len(readers))
    readers = [readers[at * len(readers) // count] for at in range(count)]
    labels: list[tuple[Any, ...]] = [
        (_line(table.titles[row]), "article", _line(table.categories[row]), clicks[row], views[row])
        for row in rows
    ]
    for example in readers:
        read = [table.categories[row] for row in example.history.tolist()]
        most = max(dict.fromkeys(read), key=read.count)
        labels.append((_line(f"reader {example.user_id}"), "reader", _line(most), len(read), 0))
    vectors = towers.vectors[rows]
    if readers:
        vectors = np.concatenate([vectors, towers.user_vectors(readers)])
    np.savetxt(folder / VECTORS_FILE, vectors, fmt="%.4g", delimiter="\t")
    with (folder / LABELS_FILE).open("w", encoding="utf-8", newline="") as out:
        lines = csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        lines.writerows([COLUMNS, *labels])
    config = projector.ProjectorConfig()
    space = config.embeddings.add()
    space.tensor_name, space.tensor_path, space.metadata_path = "two towers", VECTORS_FILE, LABELS_FILE
    projector.visualize_embeddings(str(folder), config)


def _graph_of(ranker: Any) -> Any:
    """From texts of a history and candidates to click probabilities."""
    texts = tf.TensorSpec([None], tf.string)

    @tf.function(input_signature=[texts, texts], autograph=False)
    def click_probability(history: Any, candidates: Any) -> Any:
        with tf.name_scope("history"):
            clicks = ranker.news(history)[None]
        with tf.name_scope("candidates"):
            shown = ranker.news(candidates)[None]
        with tf.name_scope("click_model"):
            masks = [tf.ones(tf.shape(vectors)[:2], tf.bool) for vectors in (clicks, shown)]
            return tf.sigmoid(ranker.click_logits(clicks, masks[0], shown, masks[1], None))

    return click_probability.get_concrete_function().graph


def _line(text: str) -> str:
    """A cell of a TSV file, which cannot contain tabs, line breaks or quotes."""
    return " ".join(text.replace("\\", "/").split()) or "(no title)"
