"""Where an evaluation is stored: JSON and samples in `reports/`, numbers, curves and models in logs."""

import contextlib
import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector
from tensorboard.plugins.histogram import metadata as histogram
from tensorboard.plugins.pr_curve import summary as pr_curve

from genre_tf.errors import FailureError
from genre_tf.evaluation.personalisation import as_markdown
from genre_tf.evaluation.scored_log import evenly
from genre_tf.evaluation.scoring import Measured, RankerScorer, TwoTowerScorer
from genre_tf.files import whole_file
from genre_tf.reporting.figures import as_pixels, attention, evaluation_figures
from genre_tf.reporting.tables import markdown, pool_rows, report_tables
from genre_tf.training.observers import write_layout

_MOST_PICTURE_BYTES = 4_000_000
MOST_ARTICLES = 2000  # t-SNE in a browser handles some thousand points, and the file stays below 15 MB
MOST_READERS = 400
VECTORS_FILE, LABELS_FILE = "vectors.tsv", "labels.tsv"
COLUMNS = ("label", "kind", "category", "clicks", "views")


def check_place(run: Path) -> None:
    """Check, before minutes of work, that an evaluation can be stored."""
    for folder in (run / "reports", run / "logs"):
        try:
            folder.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise FailureError(
                f"{folder} cannot be written ({error.strerror}); make it writable, or copy the run"
            ) from None


def keep_evaluation(report: dict[str, Any], run: Path) -> tuple[dict[str, Any], list[Path]]:
    """Store the result of `evaluate_run`.

    Returns:
        The report without its samples, and the written files: `evaluation-SPLIT.json`, `samples-SPLIT.json`
        (recommendations and texts for some readers) and, if there are texts, `samples-SPLIT.md`.
    """
    numbers = dict(report)
    written, recommended = numbers.pop("samples", []), numbers.pop("recommended", [])
    split = report["split"]
    files = [run / "reports" / f"evaluation-{split}.json", samples_file(run, split)]
    _write(files[0], json.dumps(numbers, indent=2, allow_nan=False))
    files += _keep_samples({"recommended": recommended, "written": written}, run, split)
    log_evaluation(numbers, run, written, recommended, latency_picture(run))
    return numbers, files


def keep_written(written: Sequence[dict[str, Any]], run: Path, split: str) -> None:
    """Add texts to an evaluation that measured none, for example texts written by a server.

    A sample has the form of `personalisation.as_markdown`; one that also has the "reader" and "recommended"
    ("title" and "score", best first) is shown on the report's first screen.
    """
    file = samples_file(run, split)
    try:
        samples = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FailureError(f"{file} cannot be read ({error}); evaluate the run again") from None
    _keep_samples({**samples, "written": list(written)}, run, split)
    log_samples(written, run, split)


def samples_file(run: Path, split: str) -> Path:
    """Where the samples of a split are stored."""
    return run / "reports" / f"samples-{split}.json"


def latency_picture(run: Path) -> bytes | None:
    """The PNG that `genre bench serve --picture RUN/reports/latency.png` drew; None for what cannot be it."""
    file = run / "reports" / "latency.png"
    if not file.is_file() or file.stat().st_size > _MOST_PICTURE_BYTES:
        return None
    content = file.read_bytes()
    return content if content.startswith(b"\x89PNG\r\n\x1a\n") else None


def _keep_samples(samples: Mapping[str, Any], run: Path, split: str) -> list[Path]:
    """Write `samples-SPLIT.json`, and the texts in it also as Markdown; returns the latter's file, if any."""
    _write(samples_file(run, split), json.dumps(samples, indent=1, ensure_ascii=False))
    if not samples["written"]:
        return []
    file = samples_file(run, split).with_suffix(".md")
    _write(file, "\n\n".join([f"# Written for readers of {split}", *map(as_markdown, samples["written"])]))
    return [file]


def _write(file: Path, text: str) -> None:
    with whole_file(file) as part:
        part.write_text(text + "\n", "utf-8")


def log_folder(run: Path, split: str) -> Path:
    """The TensorBoard folder for the results of a split."""
    return run / "logs" / "evaluation" / Path(split).name


def log_evaluation(
    report: Mapping[str, Any],
    run: Path,
    written: Sequence[dict[str, Any]] = (),
    recommended: Sequence[Mapping[str, Any]] = (),
    latency: bytes | None = None,
) -> None:
    """Write scalars, their charts, curves, histograms, pictures and texts into `logs/evaluation/SPLIT`."""
    split = report["split"]
    if written:
        log_samples(written, run, split)
    writer = tf.summary.create_file_writer(str(log_folder(run, split)), filename_suffix=".pictures")
    with writer.as_default(step=0):
        for name, value in scalars(report):
            tf.summary.scalar(f"{split}/{name}", value)
        write_layout({f"Evaluation on {split}": charts(report)})
        for name, found in report.get("click_model", {}).items():
            _click_model(f"{split}/{name}", found)
        for title, figure in evaluation_figures(report).items():
            tf.summary.image(f"{split}/{title}", as_pixels(figure)[None])
        for number, sample in enumerate(recommended, start=1):
            tf.summary.image(f"{split}/attention over a history/{number}", as_pixels(attention(sample))[None])
        # A damaged picture must not make the evaluation fail.
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            if latency is not None:
                picture = tf.io.decode_png(latency, channels=4)
                tf.summary.image("serving/latency against load", picture[None])
        tf.summary.text(f"{split}/summary", markdown(report_tables(report)["ranking"]))
    writer.close()


def log_samples(samples: Sequence[dict[str, Any]], run: Path, split: str) -> None:
    """Write texts for readers into TensorBoard's text tab, in `logs/evaluation/SPLIT`."""
    writer = tf.summary.create_file_writer(str(log_folder(run, split)))
    with writer.as_default(step=0):
        for number, sample in enumerate(samples, start=1):
            tf.summary.text(f"{split}/written/{number}", as_markdown(sample))
    writer.close()


def scalars(part: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a report, by the name of its TensorBoard scalar."""
    for key, value in part.items():
        name = f"{prefix}{key}".replace("@", "_at_").replace(" ", "_")
        if isinstance(value, dict):
            yield from scalars(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _click_model(tag: str, found: Mapping[str, Any]) -> None:
    shown, clicked = (np.array(found["histogram"][kind], np.float64) for kind in ("shown", "clicked"))
    # Cumulative from each threshold up to 1, as the curve needs it.
    hits, misses = clicked[::-1].cumsum()[::-1], (shown - clicked)[::-1].cumsum()[::-1]
    curve = pr_curve.raw_data_pb(
        f"{tag}/precision and recall",
        true_positive_counts=hits,
        false_positive_counts=misses,
        true_negative_counts=misses[0] - misses,
        false_negative_counts=hits[0] - hits,
        precision=hits / np.maximum(1e-7, hits + misses),
        recall=hits / max(1e-7, hits[0]),
        num_thresholds=len(shown),
        description="Precision and recall of click probabilities over all shown articles.",
    )
    tf.summary.experimental.write_raw_pb(curve.SerializeToString(), step=0)
    edges = np.linspace(0, 1, len(shown))
    for kind, counts in (("shown", shown), ("clicked", clicked)):
        rows = np.stack([edges[:-1], edges[1:], counts[:-1]], axis=1)
        rows[-1, 2] += counts[-1]  # probability exactly 1
        described = histogram.create_summary_metadata(
            display_name=None, description=f"Click probabilities of {kind} articles."
        )
        tf.summary.write(
            f"{tag}/probability of {kind} articles",
            tf.constant(rows[: max(2, int(np.flatnonzero(shown)[-1]) + 1)]),
            step=0,
            metadata=tf.compat.v1.SummaryMetadata.FromString(described.SerializeToString()),
        )


def charts(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """The tags of the scalars in each chart."""
    split, models = report["split"], report["models"]
    pool = report.get("pool") or {}
    found = {
        f"{title}, all impressions": [f"models/{name}/all/{metric}" for name in models]
        for title, metric in (("AUC", "auc"), ("nDCG@10", "ndcg_at_10"), ("MRR", "mrr"))
    }
    found |= {
        "AUC of the baselines": [f"baselines/{name}/all/auc" for name in report["baselines"]],
        "AUC before training": [
            f"before/models/{name}/all/auc" for name in report["before"].get("models", {})
        ],
        "calibration error": [
            f"click_model/{name}/calibration_error" for name in report.get("click_model", {})
        ],
        "recall@10 of the whole pool": [
            f"pool/{name if name in pool else f'baselines/{name}'}/all/recall_at_10"
            for name in (pool_rows(pool) if pool else ())
        ],
    }
    return {title: [f"{split}/{tag}" for tag in tags] for title, tags in found.items() if tags}


def log_models(measured: Measured, run: Path, split: str) -> None:
    """Write the projector's files and the click model's graph into an emptied `logs/evaluation/SPLIT`."""
    folder = log_folder(run, split)
    for file in folder.rglob("events.out.tfevents.*"):  # TensorBoard would also show an earlier evaluation
        file.unlink(missing_ok=True)
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
    readers = evenly(readers, MOST_READERS)
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
