"""`genre train safety`: trains the classifier and prints its metrics."""

from pathlib import Path

from genre_tf.cli.console import print_json, progress, results
from genre_tf.config import RunConfig


def train_safety_stage(file: Path, run: Path, settings: RunConfig, json: bool) -> None:
    """Train on a file of labelled texts and print the metrics; raises the errors of `train_safety`."""
    from genre_tf.training.safety import train_safety

    found = train_safety(
        file,
        run,
        recall=settings.safety.recall,
        seed=settings.seed,
        max_bad_rows=settings.data.max_bad_rows,
        report=lambda line: progress.print(line, markup=False, soft_wrap=True),
    )
    if json:
        print_json(found)
        return
    precision = "undefined" if found["precision"] is None else f"{found['precision']:.3f}"
    results.print(
        f"safety: AUC {found['auc']:.3f}, precision {precision}, recall {found['recall']:.3f} (target "
        f"{found['asked_recall']}) on {found['measured']} texts, {found['unsafe_measured']} of them unsafe",
        markup=False,
    )
    results.print(f"next: genre export {run} MODELS", markup=False)
