"""An evaluation in TensorBoard, for readers who did not see it run."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import metadata as histogram
from tensorboard.plugins.pr_curve import summary as pr_curve

from genre_tf.evaluation.pool_tables import pool_rows
from genre_tf.evaluation.report import log_folder, log_scalars
from genre_tf.evaluation.text_samples import log_samples
from genre_tf.reporting.figures import as_pixels, attention, evaluation_figures
from genre_tf.reporting.latency import latency_picture
from genre_tf.training.board import write_layout


def clear(run: Path, split: str) -> None:
    """Remove the files of an earlier evaluation of this split, which TensorBoard would also show."""
    for file in log_folder(run, split).rglob("events.out.tfevents.*"):
        file.unlink(missing_ok=True)


def log_evaluation(
    report: Mapping[str, Any],
    run: Path,
    written: Sequence[dict[str, Any]] = (),
    recommended: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write scalars, their charts, curves, histograms, pictures and texts into `logs/evaluation/SPLIT`.

    Args:
        report: result of `evaluate_run`.
        run: the run folder.
        written: sample texts.
        recommended: sample recommendations.
    """
    split = report["split"]
    log_scalars(dict(report), run)
    if written:
        log_samples(written, run, split)
    writer = tf.summary.create_file_writer(str(log_folder(run, split)), filename_suffix=".pictures")
    with writer.as_default(step=0):
        write_layout({f"Evaluation on {split}": _charts(report)})
        for name, found in report.get("click_model", {}).items():
            _click_model(f"{split}/{name}", found)
        for title, figure in evaluation_figures(report).items():
            tf.summary.image(f"{split}/{title}", as_pixels(figure)[None])
        for number, sample in enumerate(recommended, start=1):
            tf.summary.image(f"{split}/attention over a history/{number}", as_pixels(attention(sample))[None])
        _latency(run)
        tf.summary.text(f"{split}/summary", _table(report))
    writer.close()


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


def _charts(report: Mapping[str, Any]) -> dict[str, list[str]]:
    split, models = report["split"], report["models"]
    charts = {
        f"{title}, all impressions": [f"{split}/models/{name}/all/{metric}" for name in models]
        for title, metric in (("AUC", "auc"), ("nDCG@10", "ndcg_at_10"), ("MRR", "mrr"))
    }
    charts["AUC of the baselines"] = [f"{split}/baselines/{name}/all/auc" for name in report["baselines"]]
    charts["AUC before training"] = [
        f"{split}/before/models/{name}/all/auc" for name in report["before"].get("models", {})
    ]
    charts["calibration error"] = [
        f"{split}/click_model/{name}/calibration_error" for name in report.get("click_model", {})
    ]
    pool = report.get("pool") or {}
    charts["recall@10 of the whole pool"] = [
        f"{split}/pool/{name if name in pool else f'baselines/{name}'}/all/recall_at_10"
        for name in (pool_rows(pool) if pool else ())
    ]
    return {title: tags for title, tags in charts.items() if tags}


def _latency(run: Path) -> None:
    picture = latency_picture(run)
    if picture is None:
        return
    # A damaged picture must not make the evaluation fail.
    with contextlib.suppress(tf.errors.InvalidArgumentError):
        tf.summary.image("serving/latency against load", tf.io.decode_png(picture, channels=4)[None])


def _table(report: Mapping[str, Any]) -> str:
    lines = [
        f"{report['impressions']} impressions of {report['split']}, in percent.",
        "",
        "| | AUC | MRR | nDCG@5 | nDCG@10 | AUC before |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("models", "baselines"):
        for name, parts in report[kind].items():
            before = report["before"].get("models", {}).get(name, {}).get("all", {}).get("auc")
            values = [parts["all"][metric] for metric in ("auc", "mrr", "ndcg@5", "ndcg@10")] + [before]
            cells = ["" if value is None else f"{100 * value:.1f}" for value in values]
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)
